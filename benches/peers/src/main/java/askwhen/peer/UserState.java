package askwhen.peer;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * A user's state as the bytes that are stored: never decoded as a whole, only looked through, and
 * copied once when it changes.
 *
 * <pre>
 * 0   flags: whether ids have left for the table; whether there is an offer
 * 1   the offer's survey
 * 2   when it was made (8), the partition's offset of its trigger (8)
 * 18  how many surveys are armed
 * 19  for each: its number (1), event time (8), offset (8), lengths of id and properties (2, 2), both
 * …   ids of the events seen last, oldest first: hash (16), when (8); up to the end
 * </pre>
 */
final class UserState {
    static final int MAX_IDS = 256;
    static final long ID_REMEMBERED = 100 * 3_600_000L;

    private static final VarHandle LONGS = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
    private static final VarHandle SHORTS = MethodHandles.byteArrayViewVarHandle(short[].class, ByteOrder.BIG_ENDIAN);
    private static final int HEAD = 19;
    private static final int ARMING = 21;
    private static final int ID = 24;
    private static final byte OVERFLOWED = 1;
    private static final byte OFFERED = 2;
    private static final byte[] NOTHING = new byte[HEAD];

    private byte[] bytes;
    /** Where the ids begin. */
    private int ids;

    void load(byte[] stored) {
        bytes = stored == null ? NOTHING : stored;
        ids = HEAD;
        for (int i = bytes[HEAD - 1]; i > 0; i--) {
            ids += lengthAt(ids);
        }
    }

    byte[] bytes() {
        return bytes;
    }

    private int shortAt(int at) {
        return (short) SHORTS.get(bytes, at) & 0xffff;
    }

    private int lengthAt(int arming) {
        return ARMING + shortAt(arming + 17) + shortAt(arming + 19);
    }

    boolean overflowed() {
        return (bytes[0] & OVERFLOWED) != 0;
    }

    /** Whether an offer that was made may still be displayed. */
    boolean isOffered(long now, long ttl) {
        return (bytes[0] & OFFERED) != 0 && now < offeredAt() + ttl;
    }

    int offeredSurvey() {
        return bytes[1];
    }

    long offeredAt() {
        return (long) LONGS.get(bytes, 2);
    }

    long offeredBy() {
        return (long) LONGS.get(bytes, 10);
    }

    boolean hasSeen(long high, long low) {
        for (int at = ids; at < bytes.length; at += ID) {
            if ((long) LONGS.get(bytes, at) == high && (long) LONGS.get(bytes, at + 8) == low) {
                return true;
            }
        }
        return false;
    }

    /** Where a survey's arming stands; 0 when it is not armed. */
    int arming(int survey) {
        int at = HEAD;
        for (int i = bytes[HEAD - 1]; i > 0; i--) {
            if (bytes[at] == survey) {
                return at;
            }
            at += lengthAt(at);
        }
        return 0;
    }

    long armedAt(int arming) {
        return (long) LONGS.get(bytes, arming + 1);
    }

    void writeEventId(Output out, int arming) {
        out.put(bytes, arming + ARMING, shortAt(arming + 17));
    }

    void writeProperties(Output out, int arming) {
        out.put(bytes, arming + ARMING + shortAt(arming + 17), shortAt(arming + 19));
    }

    /** An id that has left the state and is still to be remembered. */
    interface Spill {
        void keep(long high, long low, long seenAt);
    }

    /**
     * Remembers an id, and arms a survey unless that is negative; in one copy. A survey stays armed
     * by its newest event.
     */
    void change(long high, long low, long now, int survey, long at, long offset, byte[] eventId, Input input,
            Spill spill) {
        int drop = ids;
        while (drop < bytes.length && (long) LONGS.get(bytes, drop + 16) + ID_REMEMBERED <= now) {
            drop += ID;
        }
        boolean spills = (bytes.length - drop) / ID + 1 > MAX_IDS;
        if (spills) {
            spill.keep((long) LONGS.get(bytes, drop), (long) LONGS.get(bytes, drop + 8), (long) LONGS.get(bytes, drop + 16));
            drop += ID;
        }
        int known = survey < 0 ? 0 : arming(survey);
        boolean arms = survey >= 0 && (known == 0 || at > armedAt(known)
                || at == armedAt(known) && offset > (long) LONGS.get(bytes, known + 9));
        int gone = arms && known != 0 ? lengthAt(known) : 0;
        int come = arms ? ARMING + eventId.length + input.propertiesLength : 0;
        byte[] next = new byte[ids - gone + come + bytes.length - drop + ID];
        int place = known == 0 ? ids : known;
        System.arraycopy(bytes, 0, next, 0, place);
        if (arms) {
            next[place] = (byte) survey;
            LONGS.set(next, place + 1, at);
            LONGS.set(next, place + 9, offset);
            SHORTS.set(next, place + 17, (short) eventId.length);
            SHORTS.set(next, place + 19, (short) input.propertiesLength);
            System.arraycopy(eventId, 0, next, place + ARMING, eventId.length);
            System.arraycopy(input.properties, input.propertiesAt, next, place + ARMING + eventId.length, input.propertiesLength);
            next[HEAD - 1] += (byte) (known == 0 ? 1 : 0);
        }
        System.arraycopy(bytes, place + gone, next, place + come, ids - place - gone);
        int newIds = ids - gone + come;
        System.arraycopy(bytes, drop, next, newIds, bytes.length - drop);
        LONGS.set(next, next.length - ID, high);
        LONGS.set(next, next.length - ID + 8, low);
        LONGS.set(next, next.length - ID + 16, now);
        next[0] |= spills ? OVERFLOWED : 0;
        bytes = next;
        ids = newIds;
    }

    /** Notes an offer. The state is this task's own since {@link #change}. */
    void offer(int survey, long now, long offset) {
        bytes[0] |= OFFERED;
        bytes[1] = (byte) survey;
        LONGS.set(bytes, 2, now);
        LONGS.set(bytes, 10, offset);
    }
}
