package askwhen.peer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * The engine's job. An event arms the survey that listens to it for a day; a trigger is decided
 * over all surveys, with the reason for each; every event id takes effect once in 100 hours; an
 * offer that was not displayed holds all others back for ten minutes.
 */
final class Decider implements Processor<byte[], byte[], byte[], byte[]>, UserState.Spill {
    static final String USERS = "users";
    static final String IDS = "ids";

    private static final long HOUR = 3_600_000L;
    private static final long EXPIRES_AFTER = 24 * HOUR;
    private static final long REMEMBERED = 24 * HOUR;
    private static final long LATENESS = 100 * HOUR;
    private static final long OFFER_TTL = 600_000L;
    /** An id is in one of two spans; a whole span goes at once. */
    private static final long SPAN = 128 * HOUR;
    private static final int SWEEP_ROWS = 4_096;
    private static final String TRIGGER = "Main";

    private static final byte[] HINT = ascii("\",\"hint\":\"the trigger has no context.session_id: send the same one with "
            + "every trigger of a session, and its undisplayed offer is given again, also after a page is loaded anew\"}");
    private static final byte[] HEAD = ascii("{\"project\":\"default\",\"decision_id\":\"dec_");
    private static final byte[] EVENT_ID = ascii("\",\"event_id\":");
    private static final byte[] USER_ID = ascii(",\"user_id\":");
    private static final byte[] DECIDED_AT = ascii(",\"trigger\":\"" + TRIGGER + "\",\"decided_at\":\"");
    private static final byte[] REASON = ascii("\",\"reason\":\"");
    private static final byte[] NO_SURVEY = ascii("\",\"survey\":null,\"evaluations\":[");
    private static final byte[] SURVEY = ascii("\",\"survey\":{\"survey_id\":\"");
    private static final byte[] OFFER_ID = ascii("\",\"version\":1,\"name\":\"S\",\"offer_id\":\"off_");
    private static final byte[] EXPIRES_AT = ascii("\",\"expires_at\":\"");
    private static final byte[] ACTIVATION = ascii("\",\"ui\":{},\"activation\":{\"event_id\":\"");
    private static final byte[] EVENT_NAME = ascii("\",\"event_name\":\"");
    private static final byte[] OCCURRED_AT = ascii("\",\"occurred_at\":\"");
    private static final byte[] PROPERTIES = ascii("\",\"properties\":");
    private static final byte[] QUESTIONS = ascii("},\"questions\":[{\"question_id\":\"q1\",\"type\":\"rating_star\",\"text\":\"How?\","
            + "\"required\":true}]},\"evaluations\":[");
    private static final byte[] EVALUATION = ascii("{\"survey_id\":\"");
    private static final byte[] PASS = ascii("\",\"pass\":true}");
    private static final byte[] GATE = ascii("\",\"pass\":false,\"gate\":\"");
    private static final byte[] ACTUAL_NULL = ascii("\",\"actual\":null,\"until\":null}");
    private static final byte[] ACTUAL = ascii("\",\"actual\":\"");
    private static final byte[] UNTIL_NULL = ascii("\",\"until\":null}");
    private static final byte[] UNTIL = ascii("\",\"until\":\"");

    /** How a survey fares. */
    private enum Gate {
        PASSES("offered"),
        NOT_ACTIVATED("not_activated"),
        DELAY_PENDING("delay_pending"),
        EXPIRED("expired"),
        OFFER_OUTSTANDING("offer_outstanding"),
        PREEMPTED("preempted");

        final byte[] name;

        Gate(String name) {
            this.name = ascii(name);
        }
    }

    private final Map<String, Integer> listeners = new HashMap<>();
    private final byte[][] surveyIds;
    private final byte[][] eventNames;
    private final Gate[] gates;
    private final int[] armings;
    private final Progress progress;

    private final Input input = new Input();
    private final UserState user = new UserState();
    private final Hash hash = new Hash();
    private final Output out = new Output();

    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<byte[], byte[]> users;
    private KeyValueStore<byte[], byte[]> ids;
    private int partition;
    private long now;

    Decider(int surveys, Progress progress) {
        this.progress = progress;
        surveyIds = new byte[surveys][];
        eventNames = new byte[surveys][];
        gates = new Gate[surveys];
        armings = new int[surveys];
        for (int i = 0; i < surveys; i++) {
            // In the order in which names are sorted.
            surveyIds[i] = ascii("survey-%03d".formatted(i));
            eventNames[i] = ascii("event-%03d".formatted(i));
            listeners.put("event-%03d".formatted(i), i);
        }
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        users = context.getStateStore(USERS);
        ids = context.getStateStore(IDS);
        partition = context.taskId().partition();
        context.schedule(Duration.ofMinutes(10), PunctuationType.STREAM_TIME, this::sweep);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        try {
            if (!input.read(record.value())) {
                return;
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        now = context.currentStreamTimeMs();
        long offset = context.recordMetadata().orElseThrow().offset();
        Integer survey = input.type.equals("event") ? listeners.get(input.name) : null;
        boolean isTrigger = input.type.equals("trigger") && input.name.equals(TRIGGER);
        if (survey != null || isTrigger) {
            apply(record, survey == null ? -1 : survey, offset);
        }
        progress.processed();
    }

    private void apply(Record<byte[], byte[]> record, int survey, long offset) {
        user.load(users.get(record.key()));
        hash.of(input.userId, input.eventId);
        if (user.hasSeen(hash.high, hash.low) || user.overflowed() && isRemembered()) {
            return;
        }
        long at = input.eventTime(now);
        boolean counts = survey >= 0 && at + LATENESS >= now && at + EXPIRES_AFTER > now;
        user.change(hash.high, hash.low, now, counts ? survey : -1, at, offset, input.eventId, input, this);
        if (survey < 0) {
            decide(offset);
            context.forward(new Record<>(record.key(), out.copy(), now));
        }
        users.put(record.key(), user.bytes());
    }

    private static byte[] idKey(long span, long high, long low) {
        return ByteBuffer.allocate(24).putLong(span).putLong(high).putLong(low).array();
    }

    private boolean isRemembered() {
        for (long span = now / SPAN; span >= (now - SPAN) / SPAN; span--) {
            byte[] seenAt = ids.get(idKey(span, hash.high, hash.low));
            if (seenAt != null) {
                return now < ByteBuffer.wrap(seenAt).getLong() + SPAN;
            }
        }
        return false;
    }

    @Override
    public void keep(long high, long low, long seenAt) {
        ids.put(idKey(seenAt / SPAN, high, low), ByteBuffer.allocate(8).putLong(seenAt).array());
    }

    /** Lets go of ids whose span is over. */
    private void sweep(long streamTime) {
        byte[] end = idKey(Math.max(0, streamTime / SPAN - 1), 0, 0);
        try (KeyValueIterator<byte[], byte[]> old = ids.range(idKey(0, 0, 0), end)) {
            for (int rows = 0; rows < SWEEP_ROWS && old.hasNext(); rows++) {
                KeyValue<byte[], byte[]> row = old.next();
                ids.delete(row.key);
            }
        }
    }

    private void decide(long offset) {
        hash.of(input.eventId, ByteBuffer.allocate(12).putInt(partition).putLong(offset).array());
        out.clear().put(HEAD).hex(hash.high).hex(hash.low).put(EVENT_ID).text(input.eventId);
        out.put(USER_ID).text(input.userId).put(DECIDED_AT);
        Times.write(out, now);
        out.put(REASON);
        if (input.heldBack() > OFFER_TTL) {
            out.put(ascii("stale")).put(NO_SURVEY).put(']').put('}');
            return;
        }
        int winner = evaluate();
        // Later evaluations still name the offer that held them back.
        long outstandingBy = user.offeredBy();
        long outstandingUntil = user.offeredAt() + OFFER_TTL;
        if (winner < 0) {
            out.put(gates[0].name).put(NO_SURVEY);
        } else {
            offered(winner, offset);
            user.offer(winner, now, offset);
        }
        for (int i = 0; i < gates.length; i++) {
            if (i > 0) {
                out.put(',');
            }
            out.put(EVALUATION);
            evaluation(i, winner, outstandingBy, outstandingUntil);
        }
        out.put(']').put('}');
    }

    /** Fills {@link #gates}; gives the survey to offer, or a negative number. */
    private int evaluate() {
        boolean outstanding = user.isOffered(now, OFFER_TTL);
        int winner = -1;
        for (int i = 0; i < gates.length; i++) {
            int arming = user.arming(i);
            armings[i] = arming;
            gates[i] = gate(arming, outstanding);
            // All have one priority and expire as long after their events: the oldest goes first.
            if (gates[i] == Gate.PASSES && (winner < 0 || user.armedAt(arming) < user.armedAt(armings[winner]))) {
                winner = i;
            }
        }
        for (int i = 0; i < gates.length; i++) {
            if (gates[i] == Gate.PASSES && i != winner) {
                gates[i] = Gate.PREEMPTED;
            }
        }
        return winner;
    }

    private Gate gate(int arming, boolean outstanding) {
        if (arming == 0) {
            return Gate.NOT_ACTIVATED;
        }
        long at = user.armedAt(arming);
        if (now < at) {
            return Gate.DELAY_PENDING;
        }
        if (now >= at + EXPIRES_AFTER) {
            return now >= at + EXPIRES_AFTER + REMEMBERED ? Gate.NOT_ACTIVATED : Gate.EXPIRED;
        }
        return outstanding ? Gate.OFFER_OUTSTANDING : Gate.PASSES;
    }

    private void offerId(long offset) {
        out.hex((long) partition << 48 | offset).hex(offset * 0x9e3779b97f4a7c15L);
    }

    private void offered(int winner, long offset) {
        int arming = armings[winner];
        out.put(Gate.PASSES.name).put(SURVEY).put(surveyIds[winner]).put(OFFER_ID);
        offerId(offset);
        out.put(EXPIRES_AT);
        Times.write(out, user.armedAt(arming) + EXPIRES_AFTER);
        out.put(ACTIVATION);
        user.writeEventId(out, arming);
        out.put(EVENT_NAME).put(eventNames[winner]).put(OCCURRED_AT);
        Times.write(out, user.armedAt(arming));
        out.put(PROPERTIES);
        user.writeProperties(out, arming);
        out.put(QUESTIONS);
    }

    private void evaluation(int survey, int winner, long outstandingBy, long outstandingUntil) {
        out.put(surveyIds[survey]);
        Gate gate = gates[survey];
        if (gate == Gate.PASSES) {
            out.put(PASS);
            return;
        }
        out.put(GATE).put(gate.name);
        switch (gate) {
            case PREEMPTED -> out.put(ACTUAL).put(surveyIds[winner]).put(UNTIL_NULL);
            case OFFER_OUTSTANDING -> {
                out.put(ACTUAL).put(ascii("off_"));
                offerId(outstandingBy);
                out.put(UNTIL);
                Times.write(out, outstandingUntil);
                out.put(HINT);
            }
            case EXPIRED -> {
                out.put(ACTUAL);
                Times.write(out, user.armedAt(armings[survey]) + EXPIRES_AFTER);
                out.put(UNTIL_NULL);
            }
            case DELAY_PENDING -> {
                out.put(ACTUAL);
                Times.write(out, user.armedAt(armings[survey]));
                out.put(UNTIL);
                Times.write(out, user.armedAt(armings[survey]));
                out.put('"').put('}');
            }
            default -> out.put(ACTUAL_NULL);
        }
    }
}
