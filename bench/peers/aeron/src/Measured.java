import io.aeron.shadow.org.HdrHistogram.Histogram;
import io.aeron.shadow.org.HdrHistogram.HistogramIterationValue;
import java.util.Locale;

/** What was measured. */
final class Measured {
    private static final long LONGEST = 60_000_000_000L; // nanoseconds, as the Go program has it

    private final Histogram latencies = new Histogram(1, LONGEST, 3);
    long ops;
    long busy;
    long elapsed;

    void add(long nanos) {
        latencies.recordValue(Math.min(Math.max(nanos, 1), LONGEST));
        ops++;
        busy += nanos;
    }

    String json(int bytes, int ways) {
        StringBuilder s = new StringBuilder();
        double seconds = busy / 1e9;
        s.append(String.format(
                Locale.ROOT,
                "{\"bytes\":%d,\"ops\":%d,\"busy_ns\":%d,\"elapsed_ns\":%d,\"ops_per_s\":%.1f,\"bytes_per_s\":%.1f,"
                        + "\"p50_ns\":%d,\"p90_ns\":%d,\"p99_ns\":%d,\"p999_ns\":%d,\"max_ns\":%d,\"counts\":[",
                bytes, ops, busy, elapsed, ops / seconds, (double) ops * ways * bytes / seconds,
                latencies.getValueAtPercentile(50), latencies.getValueAtPercentile(90), latencies.getValueAtPercentile(99),
                latencies.getValueAtPercentile(99.9), latencies.getMaxValue()));
        String comma = "";
        for (HistogramIterationValue v : latencies.recordedValues()) {
            s.append(comma).append('[').append(v.getValueIteratedTo()).append(',').append(v.getCountAtValueIteratedTo()).append(']');
            comma = ",";
        }
        return s.append("]}").toString();
    }
}
