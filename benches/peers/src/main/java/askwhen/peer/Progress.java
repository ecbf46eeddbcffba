package askwhen.peer;

import java.util.concurrent.atomic.AtomicLong;

/** Tells on standard output how many of the records are processed, twenty times in a run. */
final class Progress {
    private final AtomicLong count = new AtomicLong();
    private final long step;

    Progress(long records) {
        step = Math.max(1, records / 20);
    }

    void processed() {
        long processed = count.incrementAndGet();
        if (processed % step == 0) {
            System.out.println("processed " + processed);
        }
    }
}
