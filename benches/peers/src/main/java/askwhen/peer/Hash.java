package askwhen.peer;

/** MurmurHash3, 128 bits for x64, of two texts with a zero between them. */
final class Hash {
    private static final long C1 = 0x87c37b91114253d5L;
    private static final long C2 = 0x4cf5ad432745937fL;

    private byte[] buffer = new byte[256];
    long high;
    long low;

    void of(byte[] one, byte[] other) {
        int length = one.length + 1 + other.length;
        if (buffer.length < length) {
            buffer = new byte[length];
        }
        System.arraycopy(one, 0, buffer, 0, one.length);
        buffer[one.length] = 0;
        System.arraycopy(other, 0, buffer, one.length + 1, other.length);
        compute(length);
    }

    private long word(int at, int count) {
        long value = 0;
        for (int i = count - 1; i >= 0; i--) {
            value = value << 8 | buffer[at + i] & 0xff;
        }
        return value;
    }

    private void compute(int length) {
        long h1 = 0;
        long h2 = 0;
        int at = 0;
        for (; at + 16 <= length; at += 16) {
            h1 ^= mixFirst(word(at, 8));
            h1 = Long.rotateLeft(h1, 27) + h2;
            h1 = h1 * 5 + 0x52dce729;
            h2 ^= mixSecond(word(at + 8, 8));
            h2 = Long.rotateLeft(h2, 31) + h1;
            h2 = h2 * 5 + 0x38495ab5;
        }
        int rest = length - at;
        if (rest > 8) {
            h2 ^= mixSecond(word(at + 8, rest - 8));
        }
        if (rest > 0) {
            h1 ^= mixFirst(word(at, Math.min(rest, 8)));
        }
        h1 ^= length;
        h2 ^= length;
        h1 += h2;
        h2 += h1;
        h1 = last(h1);
        h2 = last(h2);
        h1 += h2;
        h2 += h1;
        high = h1;
        low = h2;
    }

    private static long mixFirst(long k) {
        return Long.rotateLeft(k * C1, 31) * C2;
    }

    private static long mixSecond(long k) {
        return Long.rotateLeft(k * C2, 33) * C1;
    }

    private static long last(long k) {
        k = (k ^ k >>> 33) * 0xff51afd7ed558ccdL;
        k = (k ^ k >>> 33) * 0xc4ceb9fe1a85ec53L;
        return k ^ k >>> 33;
    }
}
