/* Mutations that know what they change: records and their fields, interval statistics, numbers of
 * variable length, or tokens of JSON.
 *
 * Bytes changed at random would nearly always break a magic or a length, and then all that follows
 * goes unread.  So whole records are moved, repeated and left out, and fields are set to what is
 * interesting for them, or to what another record has: else nothing would ever pair.
 */

#include <stdio.h>
#include <string.h>

#include "harness.h"

static uint64_t state;

static uint64_t random64(void)          /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t any(size_t below)
{
    return below ? random64() % below : 0;
}

#define ONE_OF(table) ((table)[any(sizeof(table) / sizeof(*(table)))])

/* --- numbers in either byte order ---------------------------------------------------------------- */

static uint64_t load(const uint8_t *p, size_t width, int big_endian)
{
    uint64_t value = 0;

    for (size_t i = 0; i < width; i++)
        value |= (uint64_t)p[big_endian ? width - 1 - i : i] << 8 * i;
    return value;
}

static void store(uint8_t *p, size_t width, int big_endian, uint64_t value)
{
    for (size_t i = 0; i < width; i++)
        p[big_endian ? width - 1 - i : i] = (uint8_t)(value >> 8 * i);
}

/* --- a stream of records --------------------------------------------------------------------------- */

static const struct { uint8_t at, width; } V7[FIELDS] = {
    {4, 4}, {8, 8}, {16, 8}, {24, 4}, {28, 4}, {32, 4}, {36, 4}, {40, 4}, {44, 2}, {46, 2},
}, V8[FIELDS] = {
    {4, 4}, {8, 8}, {16, 8}, {24, 4}, {32, 8}, {28, 4}, {40, 4}, {44, 4}, {48, 2}, {50, 2},
};

enum { MAGIC = 0x65617400 };

uint64_t get_field(const uint8_t *record, const struct item *item, enum field field)
{
    return item->version == 8
        ? load(record + V8[field].at, V8[field].width, item->big_endian)
        : load(record + V7[field].at, V7[field].width, item->big_endian);
}

void set_field(uint8_t *record, const struct item *item, enum field field, uint64_t value)
{
    if (item->version == 8)
        store(record + V8[field].at, V8[field].width, item->big_endian, value);
    else
        store(record + V7[field].at, V7[field].width, item->big_endian, value);
}

/* Whether a whole record stands at p. */
static int read_item(const uint8_t *p, size_t left, struct item *item)
{
    for (int big_endian = 0; left >= 48 && big_endian < 2; big_endian++) {
        uint64_t magic = load(p, 4, big_endian);

        if (magic != (MAGIC | 7) && magic != (MAGIC | 8))
            continue;
        item->version = (int)(magic & 0xff);
        item->big_endian = big_endian;
        item->length = item->version == 8 ? 64 : 48;
        if (left < item->length)
            continue;
        item->length += get_field(p, item, PDU_LEN);
        if (item->length <= left)
            return 1;
    }
    return 0;
}

size_t find_items(const uint8_t *data, size_t size, struct item *items, size_t most)
{
    size_t at = 0, n = 0;

    while (at < size && n < most) {
        struct item *item = &items[n];

        item->at = at;
        if (read_item(data + at, size - at, item)) {
            at += item->length;
            n++;
            continue;
        }
        for (at++; at < size && !read_item(data + at, size - at, item);)
            at++;
        item->version = item->big_endian = 0;
        item->length = at - item->at;
        n++;
    }
    return n;
}

/* --- what is interesting ---------------------------------------------------------------------------- */

static const uint64_t TIMES[] = {
    0, 1, 999, 1000, 1000000, 1000000000, 600000000000, 600000000001, UINT64_MAX, UINT64_MAX - 1,
    INT64_MAX,
};
static const uint64_t SECTORS[] = {0, 1, 8, 127, 128, 1 << 20, UINT32_MAX, UINT64_MAX, INT64_MAX};
static const uint64_t SIZES[] = {
    0, 1, 512, 1023, 1024, 1025, 4096, 1 << 20, 1 << 30, INT32_MAX, UINT32_MAX, UINT32_MAX - 511,
};
static const uint64_t DEVICES[] = {
    0, 0x800000, 0x800001, 0x800010, 0x10300000, 0xfd00000, UINT32_MAX, 1,
};
static const uint64_t CPUS[] = {0, 1, 2, 3, 7, 63, 255, 1023, 4095, 4096, 65535, UINT32_MAX, 1 << 31};
static const uint64_t ACTIONS[] = {
    /* Q, M, G, I, D, C, R, X, A, P, UT of reads and writes */
    0x110001, 0x120001, 0x110002, 0x010004, 0x01000c, 0x410007, 0x810008, 0x420007, 0x820008,
    0x1410007, 0x1810008, 0x1420007, 0x1820008, 0x2410007, 0x2810008, 0x210006, 0x02000d, 0x12000f,
    0x100009, 0x10000b,
    /* flush, discard, both issue and complete, driver data, notes, a cgroup's */
    0x1450007, 0x1850008, 0x214a0007 + 0x400000, 0x214a0008 + 0x800000, 0xc10007, 0xc20008,
    0x40000011, 0x40410011, 0x4000000, 0x4000001, 0x4000002, 0x4000100, 0x1410107, 0x810108,
    /* of version 8: zones, write zeroes */
    0x1000420007, 0x1000820008, 0x4000420007, 0x4000820008, 0x10000410007, 0x10000810008,
    0x12, 0x13, 0x14, 0, UINT64_MAX,
};

static uint64_t interesting(enum field field, uint64_t old)
{
    static const uint64_t steps[] = {1, 2, 8, 128, 500, 1000, 100000, 10000000000};

    if (any(3) == 0)
        return any(2) ? old + ONE_OF(steps) : old - ONE_OF(steps);
    if (any(8) == 0)
        return random64() >> any(64);
    switch (field) {
    case TIME: return ONE_OF(TIMES);
    case SECTOR: return ONE_OF(SECTORS);
    case BYTES: return ONE_OF(SIZES);
    case ACTION: return any(4) ? ONE_OF(ACTIONS) : old ^ 1ull << any(40);
    case DEVICE: return ONE_OF(DEVICES);
    case CPU: return ONE_OF(CPUS);
    case PID: return any(2) ? any(64) : ONE_OF(ACTIONS);
    default: return ONE_OF(SIZES);
    }
}

/* --- mutations of a stream ---------------------------------------------------------------------------- */

static struct item items[MOST_ITEMS];
static size_t n_items;

struct stream {
    uint8_t *data;
    size_t size, room;
};

/* Replace `length` bytes at `at` by n others, of which what has no room is left out. */
static void replace(struct stream *s, size_t at, size_t length, const uint8_t *with, size_t n)
{
    if (s->size - length + n > s->room)
        return;
    memmove(s->data + at + n, s->data + at + length, s->size - at - length);
    if (n)
        memcpy(s->data + at, with, n);
    s->size += n - length;
}

static size_t any_boundary(const struct stream *s)
{
    return n_items == 0 || any(16) == 0 ? s->size : items[any(n_items)].at;
}

static size_t make_record(uint8_t *out, const struct item *like, const uint8_t *record)
{
    struct item item = {0, 0, any(4) ? 7 : 8, 0};
    uint64_t action = ONE_OF(ACTIONS);
    size_t header, payload = 0;

    if (like->version) {
        item.big_endian = like->big_endian;
        item.version = any(8) ? like->version : item.version;
    }
    header = item.version == 8 ? 64 : 48;
    memset(out, 0, 64);
    store(out, 4, item.big_endian, MAGIC | (uint64_t)item.version);
    for (int f = 0; f < PDU_LEN; f++) {
        uint64_t old = like->version ? get_field(record, like, (enum field)f) : 0;
        set_field(out, &item, (enum field)f, any(2) ? old : interesting((enum field)f, old));
    }
    set_field(out, &item, ACTION, action);
    if (any(4) == 0 || action >> 26 & 1 || action >> 30 & 1) {
        payload = any(8) ? any(40) : any(3000);
        for (size_t i = 0; i < payload; i++)
            out[header + i] = (uint8_t)(any(3) ? 'a' + any(26) : random64());
    }
    set_field(out, &item, PDU_LEN, payload);
    return header + payload;
}

/* The same record in the other version or byte order. */
static size_t converted(uint8_t *out, const struct item *from, const uint8_t *record,
                        int version, int big_endian)
{
    struct item item = {0, 0, version, big_endian};
    size_t header = version == 8 ? 64 : 48, old_header = from->version == 8 ? 64 : 48;

    memset(out, 0, 64);
    store(out, 4, big_endian, MAGIC | (uint64_t)version);
    for (int f = 0; f < FIELDS; f++)
        set_field(out, &item, (enum field)f, get_field(record, from, (enum field)f));
    memcpy(out + header, record + old_header, from->length - old_header);
    return header + from->length - old_header;
}

static void mutate_stream(struct stream *s)
{
    static uint8_t piece[64 + 65536];
    struct item none = {0, 0, 0, 0};
    size_t i, j, n, at, length;
    struct item *item;
    uint8_t *record;

    n_items = find_items(s->data, s->size, items, MOST_ITEMS - 1);
    i = any(n_items);
    item = n_items ? &items[i] : &none;
    record = s->data + item->at;
    switch (any(20)) {
    case 0: case 1: case 2: case 3:     /* one field of one record */
        if (item->version) {
            enum field f = (enum field)any(PDU_LEN);
            set_field(record, item, f, interesting(f, get_field(record, item, f)));
        }
        break;
    case 4: case 5:                     /* what another record has there, or nearly */
        j = any(n_items);
        if (item->version && items[j].version) {
            enum field f = (enum field)any(PDU_LEN);
            uint64_t value = get_field(s->data + items[j].at, &items[j], f);
            set_field(record, item, f, any(4) ? value : value + any(3) - 1);
        }
        break;
    case 6:                             /* the same change in a run of records */
        {
            enum field f = (enum field)any(PDU_LEN);
            uint64_t by = interesting(f, 0), slope = any(2) ? interesting(f, 0) : 0;
            for (n = any(64) + 1; n && i < n_items; n--, i++)
                if (items[i].version)
                    set_field(s->data + items[i].at, &items[i], f,
                              get_field(s->data + items[i].at, &items[i], f) + by + n * slope);
        }
        break;
    case 7:                             /* without some */
        if (n_items) {
            j = i + any(any(4) ? 4 : n_items);
            j = j < n_items ? j : n_items - 1;
            replace(s, item->at, items[j].at + items[j].length - item->at, NULL, 0);
        }
        break;
    case 8: case 9:                     /* some once more, or later */
        if (n_items) {
            j = i + any(any(4) ? 4 : n_items);
            j = j < n_items ? j : n_items - 1;
            length = items[j].at + items[j].length - item->at;
            if (length > sizeof(piece))
                break;
            memcpy(piece, record, length);
            at = any_boundary(s);
            if (any(2) && (at <= item->at || at >= item->at + length)) {
                replace(s, item->at, length, NULL, 0);
                at -= at > item->at ? length : 0;
            }
            replace(s, at, 0, piece, length);
        }
        break;
    case 10: case 11:                   /* its completion, or its issue, somewhere behind */
        if (item->version && item->length <= sizeof(piece)) {
            uint64_t action = get_field(record, item, ACTION);
            memcpy(piece, record, item->length);
            set_field(piece, item, ACTION, (action ^ 0xc00000) + (action & 1 ? 1 : -1ull));
            set_field(piece, item, TIME, get_field(record, item, TIME) + any(1000000));
            j = i + any(n_items - i);
            replace(s, items[j].at + items[j].length, 0, piece, item->length);
        }
        break;
    case 12: case 13:                   /* a new one */
        length = make_record(piece, item, record);
        replace(s, any_boundary(s), 0, piece, length);
        break;
    case 14:                            /* in the other version or byte order, one or all from here */
        {
            int version = any(2) ? 7 : 8, turn = any(4) == 0;
            n = any(2) ? i + 1 : n_items;
            while (n_items && n-- > i) {        /* backwards: what is to come stays where it is */
                item = &items[n];
                if (!item->version)
                    continue;
                length = converted(piece, item, s->data + item->at, version,
                                   item->big_endian ^ turn);
                replace(s, item->at, item->length, piece, length);
            }
        }
        break;
    case 15:                            /* garbage, or a mark of lost events */
        length = any(any(4) ? 20 : 200);
        for (n = 0; n < length; n++)
            piece[n] = (uint8_t)random64();
        if (any(4) == 0 && length >= 4)
            store(piece + any(length - 3), 4, any(2), MAGIC | 7);
        if (any(3) == 0) {
            static const char *const marks[] = {
                "CPU:3 [LOST 17 EVENTS]\n", "CPU:0 [LOST EVENTS]\n",
                "CPU:1 [LOST 9999999999999999999 EVENTS]\n", "CPU:12 [LOST 1 EVENTS", "C",
            };
            const char *mark = ONE_OF(marks);
            length = strlen(mark);
            memcpy(piece, mark, length);
        }
        replace(s, any(4) ? any_boundary(s) : any(s->size + 1), 0, piece, length);
        break;
    case 16:                            /* another payload */
        if (item->version) {
            size_t header = item->version == 8 ? 64 : 48;
            length = any(4) ? any(32) : any(any(4) ? 600 : 65536);
            for (n = 0; n < length; n++)
                piece[n] = (uint8_t)(n < 16 ? random64() : n);
            if (s->size - item->length + header + length <= s->room) {
                set_field(record, item, PDU_LEN, length);
                replace(s, item->at + header, item->length - header, piece, length);
            }
        }
        break;
    case 17:                            /* a length that is a lie */
        if (item->version && any(4) == 0)
            set_field(record, item, PDU_LEN, interesting(PDU_LEN, item->length));
        break;
    case 18:                            /* cut off */
        if (any(4) == 0 && s->size)
            s->size -= any(s->size < 128 ? s->size : 128);
        break;
    default:                            /* what libFuzzer would do, on a few bytes */
        at = any(s->size);
        n = s->size - at < 64 ? s->size - at : 64;
        if (n)
            LLVMFuzzerMutate(s->data + at, n, n);
    }
}

/* --- interval statistics, as -b writes them ------------------------------------------------------------ */

enum { STATS_03 = 424, STATS_02 = 344, SIZE_HIST = 8, D2C_HIST = 72, SIZE_BUCKETS = 16, D2C_BUCKETS = 25 };

/* Fields that have to agree for a struct to be taken for one, made to agree. */
static void make_plausible(uint8_t *p, size_t size)
{
    size_t first = size == STATS_03 ? 176 : 172, moments = size == STATS_03 ? 6 : 4;
    size_t bidir = size == STATS_03 ? 416 : 332;
    uint64_t num[2], total;

    for (size_t m = 0; m < moments; m++) {
        uint8_t *of = p + first + m * 40;
        if (m < 2)
            num[m] = load(of + 32, 8, 1);
        else if (m < 4)
            store(of + 32, 8, 1, num[m & 1]);
        if (load(of + 32, 8, 1) == 0) {
            store(of, 8, 1, UINT64_MAX);
            store(of + 8, 8, 1, 0);
        } else if (load(of, 8, 1) > load(of + 8, 8, 1)) {
            store(of + 8, 8, 1, load(of, 8, 1));
        }
    }
    store(p, 8, 1, load(p, 8, 1) & ((1ull << 36) - 1));
    total = num[0] + num[1] + load(p + bidir, 8, 1);
    for (size_t h = 0; h < 2; h++) {
        size_t at = h ? D2C_HIST : SIZE_HIST, n = h ? D2C_BUCKETS : SIZE_BUCKETS, fix = any(n);
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += i == fix ? 0 : load(p + at + 4 * i, 4, 1);
        store(p + at + 4 * fix, 4, 1, total - sum);
        if (size == STATS_02 && any(8) == 0)    /* that layout's last bucket was not swapped */
            store(p + at + 4 * (n - 1), 4, 1, load(p + at + 4 * (n - 1), 4, 0));
    }
}

static void mutate_stats(struct stream *s)
{
    static const uint64_t numbers[] = {
        0, 1, 2, 3, 1000, 1u << 31, UINT32_MAX, 1ull << 36, INT64_MAX, UINT64_MAX, UINT64_MAX - 1,
    };
    static uint8_t piece[STATS_03];
    size_t size = s->size % STATS_03 && s->size % STATS_02 == 0 ? STATS_02 : STATS_03;
    size_t n = s->size / size, i = any(n), at = i * size, field;

    switch (any(12)) {
    case 0:                             /* a new one, or a first one */
        if (!n)
            size = any(2) ? STATS_03 : STATS_02;
        memset(piece, 0, sizeof(piece));
        make_plausible(piece, size);
        replace(s, at, 0, piece, size);
        break;
    case 1:
        if (n)
            replace(s, at, size, NULL, 0);
        break;
    case 2:                             /* one once more */
        if (n) {
            memcpy(piece, s->data + at, size);
            replace(s, any(n + 1) * size, 0, piece, size);
        }
        break;
    case 3:                             /* cut off */
        if (any(4) == 0)
            s->size -= any(s->size < size ? s->size + 1 : size);
        break;
    case 4:
        s->size = LLVMFuzzerMutate(s->data, s->size, s->room);
        break;
    default:                            /* some fields */
        for (size_t times = n ? any(4) + 1 : 0; times; times--) {
            if (any(2)) {               /* a bucket */
                field = SIZE_HIST + 4 * any(SIZE_BUCKETS + D2C_BUCKETS);
                store(s->data + at + field, 4, 1, any(2) ? any(100) : ONE_OF(numbers));
            } else {                    /* the time, or what stands behind the histograms */
                field = size == STATS_03 ? 176 + 8 * any(31) : 172 + 8 * any(21);
                if (any(8) == 0)
                    field = 0;
                store(s->data + at + field, 8, 1,
                      any(2) ? ONE_OF(numbers) : random64() >> any(64));
            }
        }
        if (n && any(16))
            make_plausible(s->data + at, size);
    }
}

/* --- numbers of seven bits a byte, as Interval.to_bytes writes them ------------------------------------- */

static size_t number_end(const struct stream *s, size_t at)
{
    while (at < s->size && s->data[at] & 0x80)
        at++;
    return at < s->size ? at + 1 : s->size;
}

static void mutate_numbers(struct stream *s)
{
    static const uint64_t numbers[] = {
        0, 1, 2, 3, 127, 128, 3775, 3776, 1u << 31, UINT32_MAX, 1ull << 52, INT64_MAX, UINT64_MAX,
    };
    uint8_t piece[16];
    size_t at = 0, end, n = 0, other;
    uint64_t value;

    if (any(8) == 0) {
        s->size = LLVMFuzzerMutate(s->data, s->size, s->room);
        return;
    }
    /* Begin at a number: behind a byte that ends one. */
    for (at = any(s->size + 1); at && at < s->size && s->data[at - 1] & 0x80; at--)
        ;
    end = number_end(s, at);
    for (value = 0, other = end; other > at; other--)
        value = value << 7 | (s->data[other - 1] & 0x7f);
    switch (any(6)) {
    case 0:
        value = ONE_OF(numbers);
        break;
    case 1:
        value += any(2) ? 1 : -1;
        break;
    case 2:                             /* another one's value */
        for (other = any(s->size + 1); other && other < s->size && s->data[other - 1] & 0x80;)
            other--;
        for (n = number_end(s, other), value = 0; n > other; n--)
            value = value << 7 | (s->data[n - 1] & 0x7f);
        break;
    case 3:
        value ^= 1ull << any(64);
        break;
    default:
        value = any(300);
    }
    for (n = 0; n < 9 && value > 0x7f; value >>= 7)
        piece[n++] = 0x80 | (value & 0x7f);
    piece[n++] = (uint8_t)(value & 0x7f);
    other = any(12);                    /* mostly in its place, else one more or one less */
    replace(s, at, other ? end - at : 0, piece, other == 1 ? 0 : n);
}

/* --- JSON ----------------------------------------------------------------------------------------------- */

/* The token at a place: a string, a number or word, or a single character. */
static size_t token_end(const struct stream *s, size_t at)
{
    size_t end = at + 1;

    if (at >= s->size)
        return s->size;
    if (s->data[at] == '"') {
        while (end < s->size && s->data[end] != '"')
            end += s->data[end] == '\\' ? 2 : 1;
        return end < s->size ? end + 1 : s->size;
    }
    if (strchr("{}[],: \n", s->data[at]))
        return end;
    while (end < s->size && !strchr("{}[],: \n\"", s->data[end]))
        end++;
    return end;
}

static size_t any_token(const struct stream *s)
{
    size_t at = any(s->size + 1);

    while (at && at < s->size && !strchr("{}[],:\n", s->data[at - 1]))
        at--;
    return at;
}

static void mutate_tokens(struct stream *s)
{
    static const char *const tokens[] = {
        "0", "1", "-1", "2", "1.5", "1e400", "-0", "NaN", "-Infinity", "null", "true", "false",
        "4503599627370496", "18446744073709551615", "18446744073709551616", "9223372036854775808",
        "340282366920938463463374607431768211455", "-9223372036854775808", "[]", "{}", "[[]]",
        "\"\"", "\"8:16\"", "\"\\ud800\"", "\"wall\"", "\"trace\"", "\n", ",", "}", "]", "{", "[",
    };
    static uint8_t piece[1 << 10];
    size_t at = any_token(s), end = token_end(s, at), other, n;
    const char *text;

    switch (any(8)) {
    case 0:
        s->size = LLVMFuzzerMutate(s->data, s->size, s->room);
        break;
    case 1:                             /* without some */
        for (n = any(4); n; n--)
            end = token_end(s, end);
        replace(s, at, end - at, NULL, 0);
        break;
    case 2:                             /* another one of these, or several of them */
    case 3:
        other = any_token(s);
        for (n = token_end(s, other); any(3) == 0;)
            n = token_end(s, n);
        n = n - other < sizeof(piece) ? n - other : sizeof(piece);
        memcpy(piece, s->data + other, n);
        replace(s, at, any(4) ? end - at : 0, piece, n);
        break;
    case 4:                             /* a number close by */
        n = (size_t)snprintf((char *)piece, sizeof(piece), "%llu",
                             (unsigned long long)(random64() >> any(64)));
        replace(s, at, end - at, piece, n);
        break;
    default:
        text = ONE_OF(tokens);
        replace(s, at, any(8) ? end - at : 0, (const uint8_t *)text, strlen(text));
    }
}

/* --- libFuzzer's entry points ------------------------------------------------------------------------- */

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    struct stream s = {data, size, max_size};

    state = seed * 0x2545f4914f6cdd1dull + 1;
    if (mutation != STREAM) {
        for (size_t n = mutation == STATS ? 1 : 1 + any(3); n; n--)
            (mutation == STATS ? mutate_stats
             : mutation == NUMBERS ? mutate_numbers : mutate_tokens)(&s);
        return s.size;
    }
    if (max_size < OPTIONS)
        return LLVMFuzzerMutate(data, size, max_size);
    if (size < OPTIONS) {
        memset(data + size, 0, OPTIONS - size);
        size = OPTIONS;
    }
    s = (struct stream){data + OPTIONS, size - OPTIONS, max_size - OPTIONS};
    if (any(6) == 0)
        data[any(OPTIONS)] = any(2) ? (uint8_t)random64() : (uint8_t)any(8);
    else
        for (size_t n = 1 + (any(2) ? 0 : any(4)); n; n--)
            mutate_stream(&s);
    return OPTIONS + s.size;
}

/* The beginning of one stream, then the end of another, or some of its records. */
size_t LLVMFuzzerCustomCrossOver(
    const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
    uint8_t *out, size_t max_size, unsigned int seed
)
{
    size_t head = 0, begin = 0, end = b_size, n;

    state = seed * 0x2545f4914f6cdd1dull + 1;
    if (mutation == STATS) {
        head = a_size / STATS_03 * STATS_03;
    } else if (mutation != STREAM) {
        head = any(a_size + 1);
        begin = any(b_size + 1);
    } else {
        n = a_size > OPTIONS
            ? find_items(a + OPTIONS, a_size - OPTIONS, items, MOST_ITEMS - 1) : 0;
        head = n ? OPTIONS + items[any(n)].at : a_size;
        n = b_size > OPTIONS
            ? find_items(b + OPTIONS, b_size - OPTIONS, items, MOST_ITEMS - 1) : 0;
        if (n) {
            size_t first = any(n);
            begin = OPTIONS + items[first].at;
            if (any(2)) {
                first += any(n - first);
                end = OPTIONS + items[first].at + items[first].length;
            }
        } else {
            begin = b_size < OPTIONS ? b_size : OPTIONS;
        }
    }
    head = head < max_size ? head : max_size;
    n = end - begin < max_size - head ? end - begin : max_size - head;
    memcpy(out, a, head);
    memcpy(out + head, b + begin, n);
    return head + n;
}
