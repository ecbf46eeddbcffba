package askwhen.peer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;

/** A record of the journal, read in one pass. One is used again for each record of a task. */
final class Input {
    private static final long FUTURE_SKEW = 5 * 60_000L;
    private static final byte[] EMPTY_OBJECT = {'{', '}'};
    private static final JsonFactory FACTORY = new JsonFactory();

    String type;
    byte[] userId;
    byte[] eventId;
    String name;
    /** The properties' own bytes are a slice of the record's value. */
    byte[] properties;
    int propertiesAt;
    int propertiesLength;
    private long occurredAt;
    private long sentAt;
    private long receivedAt;

    private static final long UNKNOWN = Long.MIN_VALUE;

    /** Reads a value; false when it is not one that a user's state depends on. */
    boolean read(byte[] value) throws IOException {
        type = "event";
        userId = null;
        eventId = null;
        name = null;
        properties = EMPTY_OBJECT;
        propertiesAt = 0;
        propertiesLength = EMPTY_OBJECT.length;
        occurredAt = UNKNOWN;
        sentAt = UNKNOWN;
        receivedAt = UNKNOWN;
        try (JsonParser parser = FACTORY.createParser(value)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                return false;
            }
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String member = parser.currentName();
                parser.nextToken();
                member(parser, member, value);
                if (type.equals("internal")) {
                    return false;
                }
            }
        }
        return userId != null && name != null && (type.equals("event") || type.equals("trigger"));
    }

    private void member(JsonParser parser, String member, byte[] value) throws IOException {
        switch (member) {
            case "type" -> type = parser.getText();
            case "user_id" -> userId = bytes(parser);
            case "event_id" -> eventId = bytes(parser);
            case "event_name", "trigger" -> name = parser.getText();
            case "occurred_at" -> occurredAt = time(parser);
            case "sent_at" -> sentAt = time(parser);
            case "received_at" -> receivedAt = time(parser);
            case "properties" -> {
                int begin = (int) parser.currentTokenLocation().getByteOffset();
                parser.skipChildren();
                properties = value;
                propertiesAt = begin;
                propertiesLength = (int) parser.currentLocation().getByteOffset() - begin;
            }
            default -> parser.skipChildren();
        }
    }

    private static byte[] bytes(JsonParser parser) throws IOException {
        return parser.getText().getBytes(StandardCharsets.UTF_8);
    }

    private static long time(JsonParser parser) throws IOException {
        if (parser.currentToken() != JsonToken.VALUE_STRING) {
            return UNKNOWN;
        }
        char[] text = parser.getTextCharacters();
        int at = parser.getTextOffset();
        int length = parser.getTextLength();
        long fast = Times.parse(text, at, length);
        return fast != Times.OTHER ? fast : Instant.parse(new String(text, at, length)).toEpochMilli();
    }

    /** When it happened, as askwhen's engine reckons it. */
    long eventTime(long logTime) {
        long base = receivedAt == UNKNOWN ? logTime : receivedAt;
        long at = base;
        if (occurredAt != UNKNOWN) {
            at = sentAt == UNKNOWN ? occurredAt : base - (sentAt - occurredAt);
        }
        return Math.min(Math.max(at, 0), logTime + FUTURE_SKEW);
    }

    /** How long the sender held it back, when it says so. */
    long heldBack() {
        return sentAt == UNKNOWN || occurredAt == UNKNOWN ? 0 : sentAt - occurredAt;
    }
}
