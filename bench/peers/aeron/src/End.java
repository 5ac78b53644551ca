import io.aeron.Aeron;
import io.aeron.FragmentAssembler;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.logbuffer.FragmentHandler;
import io.aeron.logbuffer.Header;
import java.util.concurrent.locks.LockSupport;
import org.agrona.BitUtil;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.BusySpinIdleStrategy;
import org.agrona.concurrent.IdleStrategy;
import org.agrona.concurrent.UnsafeBuffer;

/** One side of the streams for messages of one size: one stream each way. */
final class End {
    // What the first eight bytes of a message say, other than a number.
    static final long STOP = -1;
    private static final long MARK = -2; // answer with the tally of what came

    private static final int LEAST = 16; // a number at each end
    private static final int CLOCK_EVERY = 64; // messages one way between two looks at the clock
    private static final int LIMIT = 10; // fragments in one poll, as Aeron's samples have it

    private final Publication publication;
    private final Subscription subscription;
    private final UnsafeBuffer message;
    private final int bytes;
    private final UnsafeBuffer copy; // of what came, where that is asked for
    private IdleStrategy idle;
    private boolean copies;

    // What came last.
    private boolean came;
    private long first;
    private long last;
    private int length;

    // What has come one way.
    private boolean oneWay;
    private boolean stopped;
    private long messages;
    private long sum;

    End(Aeron client, int bytes, boolean pinging, boolean oneWay) {
        if (bytes < LEAST) {
            throw new IllegalArgumentException("messages have " + LEAST + " bytes at least");
        }
        this.bytes = bytes;
        // Streams of their own for each size and way. They stay, so ping knows that pong is there.
        int first = 4 * bytes + (oneWay ? 2 : 0);
        int out = first + (pinging ? 0 : 1);
        int in = first + (pinging ? 1 : 0);
        // For an echo as long as a ring of Tandem, unless the message needs more: a term holds eight of the longest.
        // One way Aeron's default: a sender may be half a term ahead of where the driver has last looked, and the
        // driver looks seldom where sender and receiver spin on two processors.
        int term = oneWay ? 64 << 20 : Math.max(1 << 20, BitUtil.findNextPositivePowerOfTwo(16 * bytes));
        publication = client.addExclusivePublication("aeron:ipc?term-length=" + term, out);
        subscription = client.addSubscription("aeron:ipc", in);
        message = new UnsafeBuffer(java.nio.ByteBuffer.allocateDirect(bytes));
        copy = new UnsafeBuffer(java.nio.ByteBuffer.allocateDirect(bytes));
        for (int i = 0; i < bytes; i++) {
            message.putByte(i, (byte) i);
        }
    }

    /** Chooses how this side waits. */
    void idle(boolean backoff) {
        idle = backoff ? new BackoffIdleStrategy() : BusySpinIdleStrategy.INSTANCE;
    }

    /** Chooses whether both sides copy what comes out of the log. */
    void copies(boolean yes) {
        copies = yes;
    }

    private void pause() {
        if (Main.closed) {
            throw new IllegalStateException("the host has gone");
        }
        idle.idle();
    }

    private void offer(DirectBuffer buffer, int offset, int length) {
        idle.reset();
        for (; ; ) {
            long result = publication.offer(buffer, offset, length);
            if (result >= 0) {
                return;
            }
            if (result == Publication.CLOSED || result == Publication.MAX_POSITION_EXCEEDED) {
                throw new IllegalStateException("the publication failed: " + result);
            }
            pause(); // the other side is behind, or not there yet
        }
    }

    /** Sends a message with a number at each end. */
    void send(long number) {
        message.putLong(0, number);
        message.putLong(bytes - 8, ~number);
        offer(message, 0, bytes);
    }

    private void poll(FragmentHandler handler) {
        idle.reset();
        for (came = false; !came; ) {
            if (subscription.poll(handler, 1) == 0) {
                pause();
            }
        }
    }

    private final FragmentAssembler receive = new FragmentAssembler(this::received);

    private void received(DirectBuffer buffer, int offset, int length, Header header) {
        came = true;
        this.length = length;
        if (copies) {
            copy.putBytes(0, buffer, offset, length);
            buffer = copy;
            offset = 0;
        }
        first = buffer.getLong(offset);
        last = buffer.getLong(offset + length - 8);
    }

    /** Makes round trips and times each. */
    Measured trips(long nanos, long pace) {
        Measured m = new Measured();
        long begin = System.nanoTime();
        do {
            if (pace > 0) {
                LockSupport.parkNanos(pace);
            }
            long start = System.nanoTime();
            send(m.ops);
            poll(receive);
            long now = System.nanoTime();
            if (length != bytes || first != m.ops || last != ~m.ops) {
                throw new IllegalStateException("a message was lost or garbled");
            }
            m.add(now - start);
            m.elapsed = now - begin;
        } while (m.elapsed < nanos);
        return m;
    }

    /** Sends messages one way. The clock stops when pong has said that all arrived. */
    Measured oneWay(long nanos) {
        Measured m = new Measured();
        long total = 0;
        long begin = System.nanoTime();
        do {
            for (int i = 0; i < CLOCK_EVERY; i++) {
                send(m.ops);
                total += m.ops++;
            }
        } while (System.nanoTime() - begin < nanos);
        send(MARK);
        poll(receive);
        m.busy = m.elapsed = System.nanoTime() - begin;
        if (first != m.ops || last != total) {
            throw new IllegalStateException("a message was lost or garbled: sent " + m.ops + ", came " + first);
        }
        return m;
    }

    private final FragmentAssembler answer = new FragmentAssembler(this::answered);

    private void answered(DirectBuffer buffer, int offset, int length, Header header) {
        long number = buffer.getLong(offset);
        if (number == STOP) {
            stopped = true;
        } else if (number == MARK) {
            message.putLong(0, messages);
            message.putLong(bytes - 8, sum);
            offer(message, 0, bytes);
            messages = sum = 0;
        } else if (oneWay) {
            messages++;
            sum += number;
        } else if (copies) {
            copy.putBytes(0, buffer, offset, length);
            offer(copy, 0, length);
        } else {
            offer(buffer, offset, length);
        }
    }

    /** What pong does until it is told to stop. */
    void serve(boolean oneWay) {
        this.oneWay = oneWay;
        messages = sum = 0;
        idle.reset();
        for (stopped = false; !stopped; ) {
            if (subscription.poll(answer, LIMIT) == 0) {
                pause();
            } else {
                idle.reset();
            }
        }
    }
}
