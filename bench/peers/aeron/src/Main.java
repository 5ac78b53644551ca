import io.aeron.Aeron;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.locks.LockSupport;

/**
 * The two ends of an Aeron benchmark, which the Go program of bench/peers starts:
 *
 * <pre>
 *     java Main pong DIRECTORY
 *     java Main ping DIRECTORY
 * </pre>
 *
 * The media driver is embedded in pong; its files are in DIRECTORY. Each side reads commands
 * from stdin and answers each with one line of JSON on stdout.
 *
 * <pre>
 *     KIND BYTES                    to pong: answer ping until that says stop
 *     KIND BYTES NANOSECONDS PACE   to ping: measure for so long, and sleep PACE nanoseconds
 *                                   before each operation
 *     KIND BYTES                    to ping: tell pong to stop
 * </pre>
 *
 * pong answers when it is ready, and again when it was told to stop. Kinds are spin and
 * backoff, which are round trips with those idle strategies; copied, which spins, and of which
 * both sides copy what comes out of the log; and oneway, which spins. Both sides end with their
 * stdin.
 */
public final class Main {
    /** Says that stdin has ended, for loops that would go on for ever. */
    static volatile boolean closed;

    private static final String END = ""; // no command is empty
    private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), true);

    private final Aeron client;
    private final boolean pinging;
    private final Map<List<Object>, End> ends = new HashMap<>();

    private Main(Aeron client, boolean pinging) {
        this.client = client;
        this.pinging = pinging;
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 2) {
            throw new IllegalArgumentException("usage: Main ping|pong DIRECTORY");
        }
        boolean pinging = args[0].equals("ping");
        String directory = new File(args[1], "aeron").getPath();
        BlockingQueue<String> commands = commands();
        MediaDriver driver = pinging ? null : driver(directory);
        try (driver) {
            String first = commands.take(); // by when ping can be sure of the driver
            Aeron.Context context = new Aeron.Context()
                    .aeronDirectoryName(directory)
                    .driverTimeoutMs(60_000)
                    .preTouchMappedMemory(true);
            try (Aeron client = Aeron.connect(context)) {
                Main side = new Main(client, pinging);
                for (String line = first; !line.equals(END); line = commands.take()) {
                    try {
                        side.obey(line.split(" "));
                    } catch (Exception e) {
                        OUT.println("{\"error\":\"" + e.toString().replaceAll("[^ -~]|[\"\\\\]", "?") + "\"}");
                    }
                }
            }
        }
    }

    private static MediaDriver driver(String directory) {
        return MediaDriver.launch(
                new MediaDriver.Context()
                        .aeronDirectoryName(directory)
                        .threadingMode(ThreadingMode.SHARED)
                        .ipcMtuLength(65504)
                        .termBufferSparseFile(false)
                        .dirDeleteOnShutdown(true));
    }

    /** Reads stdin beside the work. After its end the process has two seconds to tidy up. */
    private static BlockingQueue<String> commands() {
        BlockingQueue<String> commands = new LinkedBlockingQueue<>();
        Thread reader = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    commands.add(line);
                }
            } catch (IOException e) {
                // is the end, too
            }
            closed = true;
            commands.add(END);
            LockSupport.parkNanos(2_000_000_000L);
            Runtime.getRuntime().halt(1);
        });
        reader.setDaemon(true);
        reader.start();
        return commands;
    }

    private void obey(String[] words) {
        String kind = words[0];
        int bytes = Integer.parseInt(words[1]);
        boolean oneWay = kind.equals("oneway");
        End end = ends.computeIfAbsent(List.of(bytes, oneWay), n -> new End(client, bytes, pinging, oneWay));
        end.idle(kind.equals("backoff"));
        end.copies(kind.equals("copied"));
        if (!pinging) {
            OUT.println("{\"ready\":true}");
            end.serve(oneWay);
            OUT.println("{\"served\":true}");
        } else if (words.length == 2) {
            end.send(End.STOP);
            OUT.println("{\"stopped\":true}");
        } else {
            long nanos = Long.parseLong(words[2]);
            long pace = Long.parseLong(words[3]);
            Measured m = oneWay ? end.oneWay(nanos) : end.trips(nanos, pace);
            OUT.println(m.json(bytes, oneWay ? 1 : 2));
        }
    }
}
