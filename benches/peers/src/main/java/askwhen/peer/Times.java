package askwhen.peer;

/** RFC 3339 in UTC with milliseconds, without objects in between. */
final class Times {
    /** A spelling that is read elsewhere. */
    static final long OTHER = Long.MIN_VALUE + 1;

    private static final long DAY = 86_400_000L;
    private static final String SHAPE = "dddd-dd-ddTdd:dd:dd.dddZ";

    private Times() {}

    static long parse(char[] text, int at, int length) {
        if (length != SHAPE.length()) {
            return OTHER;
        }
        for (int i = 0; i < length; i++) {
            char wanted = SHAPE.charAt(i);
            char found = text[at + i];
            if (wanted == 'd' ? found < '0' || found > '9' : found != wanted) {
                return OTHER;
            }
        }
        long year = number(text, at, 4);
        int month = number(text, at + 5, 2);
        int day = number(text, at + 8, 2);
        long seconds = number(text, at + 11, 2) * 3_600L + number(text, at + 14, 2) * 60L + number(text, at + 17, 2);
        return daysOf(year, month, day) * DAY + seconds * 1_000 + number(text, at + 20, 3);
    }

    private static int number(char[] text, int at, int digits) {
        int value = 0;
        for (int i = 0; i < digits; i++) {
            value = value * 10 + text[at + i] - '0';
        }
        return value;
    }

    /** Days since 1970 in the Gregorian calendar, whose years begin in March here. */
    private static long daysOf(long year, int month, int day) {
        long shifted = month <= 2 ? year - 1 : year;
        long era = Math.floorDiv(shifted, 400);
        long yearOfEra = shifted - era * 400;
        long dayOfYear = (153L * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468;
    }

    static void write(Output out, long millis) {
        long days = Math.floorDiv(millis, DAY);
        long rest = millis - days * DAY;
        long shifted = days + 719_468;
        long era = Math.floorDiv(shifted, 146_097);
        long dayOfEra = shifted - era * 146_097;
        long yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365;
        long dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
        long monthFromMarch = (5 * dayOfYear + 2) / 153;
        int day = (int) (dayOfYear - (153 * monthFromMarch + 2) / 5 + 1);
        int month = (int) (monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9);
        int year = (int) (yearOfEra + era * 400 + (month <= 2 ? 1 : 0));
        out.digits(year, 4).put('-').digits(month, 2).put('-').digits(day, 2).put('T');
        out.digits((int) (rest / 3_600_000), 2).put(':').digits((int) (rest / 60_000 % 60), 2).put(':');
        out.digits((int) (rest / 1_000 % 60), 2).put('.').digits((int) (rest % 1_000), 3).put('Z');
    }
}
