package askwhen.peer;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A buffer of bytes that grows, and is used again for each decision of a task. */
final class Output {
    private static final byte[] HEX = "0123456789abcdef".getBytes(StandardCharsets.US_ASCII);

    private byte[] buffer = new byte[8 << 10];
    private int length;

    Output clear() {
        length = 0;
        return this;
    }

    byte[] copy() {
        return Arrays.copyOf(buffer, length);
    }

    private void room(int more) {
        if (length + more > buffer.length) {
            buffer = Arrays.copyOf(buffer, Math.max(buffer.length * 2, length + more));
        }
    }

    Output put(char ascii) {
        room(1);
        buffer[length++] = (byte) ascii;
        return this;
    }

    Output put(byte[] bytes) {
        return put(bytes, 0, bytes.length);
    }

    Output put(byte[] bytes, int at, int count) {
        room(count);
        System.arraycopy(bytes, at, buffer, length, count);
        length += count;
        return this;
    }

    Output digits(int value, int count) {
        room(count);
        for (int i = count - 1; i >= 0; i--) {
            buffer[length + i] = (byte) ('0' + value % 10);
            value /= 10;
        }
        length += count;
        return this;
    }

    Output hex(long value) {
        room(16);
        for (int i = 15; i >= 0; i--) {
            buffer[length + i] = HEX[(int) (value & 15)];
            value >>>= 4;
        }
        length += 16;
        return this;
    }

    /** A JSON string of UTF-8 bytes. */
    Output text(byte[] bytes) {
        put('"');
        for (byte b : bytes) {
            if (b == '"' || b == '\\') {
                put('\\').put((char) b);
            } else if (b >= 0 && b < 0x20) {
                put('\\').put('u').put('0').put('0').put((char) HEX[b >> 4]).put((char) HEX[b & 15]);
            } else {
                room(1);
                buffer[length++] = b;
            }
        }
        return put('"');
    }
}
