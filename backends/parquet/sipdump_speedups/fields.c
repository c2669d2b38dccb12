/* The fields of SIP messages as Arrow wants them: what sipdump_parquet/fields.py does, for messages of the usual form.
 *
 * A message of any other form is not understood here: it is reported as odd, and Python takes it. So a rule may be
 * stricter here than in Python, never more lenient. All that is found is ASCII.
 *
 * A message is read only through a Part, which knows its end; nothing is written but into the caller's arrays. There is
 * no Python in here, and no memory is taken: ctypes calls the two functions at the end.
 */
#include <stdint.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
#define MAX_NAMES 64

/* Python compares it with the source that it has, and uses no library of another version. */
PUBLIC const uint32_t sipdump_source = SIPDUMP_SOURCE;

/* Bytes to be read, none at the end or behind it; at is NULL where there is no such value. */
typedef struct { const uint8_t *at, *end; } Part;

/* Where a field's value is in the data; a size of -1 is null. */
typedef struct { int32_t at, size; } Span;

/* native.py has both in this order. */
enum { CALL_ID, CSEQ, FROM, TO, VIA, USER_AGENT, SERVER, HEADERS, ODD = 255 };
enum { CALL, METHOD, STATUS, NUMBER, NUMBERED, FROM_USER, FROM_TAG, TO_USER, TO_TAG, URI_USER, BRANCH, AGENT, FIELDS };

/* The headers that count, their names in lower case; a bit for each of those that begin with a byte, in any case. */
typedef struct {
    Part name[MAX_NAMES];
    uint8_t header[MAX_NAMES];
    uint64_t by_first[256];
} Names;

/* Classes of bytes, as the expressions in Python's values.py have them. */
enum { UPPER = 1, DIGIT = 2, TOKEN = 4, USER = 8, HOST = 16, SPACE = 32, WORD = 64, NAME = 128 };
static uint8_t classes[256];

static void __attribute__((constructor)) classify(void)
{
    for (int c = 0; c < 256; c++) {
        int upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z', digit = c >= '0' && c <= '9';
        int space = c == ' ' || (c >= '\t' && c <= '\r');
        classes[c] |= upper ? UPPER : 0;
        classes[c] |= digit ? DIGIT : 0;
        classes[c] |= upper || lower || digit || (c && strchr(".!%*_+`'~-", c)) ? TOKEN : 0;
        classes[c] |= (c >= '#' && c <= '9') || upper || (c >= '^' && c <= '~') || (c && strchr("!=?", c)) ? USER : 0;
        classes[c] |= !space && c != '@' && c != '<' && c != '>' ? HOST : 0;
        classes[c] |= space ? SPACE : 0;
        classes[c] |= c > ' ' && c <= '~' ? WORD : 0;
        classes[c] |= c != '"' && c != '<' && c != ';' ? NAME : 0;
    }
}

static int64_t size_of(Part part) { return part.end - part.at; }
static int is_empty(Part part) { return part.at == part.end; }
static int is_byte(Part part, int byte) { return !is_empty(part) && *part.at == byte; }
static int is_one(Part part, int class) { return !is_empty(part) && classes[*part.at] & class; }
static void set_bit(uint8_t *bits, int64_t at) { bits[at / 8] |= (uint8_t)(1 << at % 8); }

/* Take all the bytes of a class that come next. */
static Part take(Part *from, int class)
{
    Part taken = *from;
    while (is_one(*from, class))
        from->at++;
    taken.end = from->at;
    return taken;
}

/* Take all that comes before a byte; everything if it is not there. */
static Part take_until(Part *from, int byte)
{
    Part taken = *from;
    const uint8_t *found = is_empty(*from) ? NULL : memchr(from->at, byte, (size_t)size_of(*from));
    taken.end = from->at = found ? found : from->end;
    return taken;
}

/* Pass over a literal; return whether it was there. */
static int pass(Part *from, const char *literal)
{
    int64_t size = (int64_t)strlen(literal);
    if (size_of(*from) < size || memcmp(from->at, literal, (size_t)size) != 0)
        return 0;
    from->at += size;
    return 1;
}

static int has(Part part, int byte)
{
    return take_until(&part, byte).end != part.end;
}

static Part stripped(Part part)
{
    take(&part, SPACE);
    while (!is_empty(part) && classes[part.end[-1]] & SPACE)
        part.end--;
    return part;
}

/* What is named read_... returns whether all is of the usual form; if not, what it found does not count. */

static int read_start_line(Part line, Part fields[FIELDS])
{
    if (pass(&line, "SIP/2.0 ")) {
        fields[STATUS] = take(&line, DIGIT);
        return size_of(fields[STATUS]) == 3;
    }
    fields[METHOD] = take(&line, UPPER);
    if (is_empty(fields[METHOD]) || !(pass(&line, " sip:") || pass(&line, " sips:")))
        return 0;
    Part rest = line, user = take(&rest, USER);
    if (!is_empty(user) && pass(&rest, "@")) {
        fields[URI_USER] = user;
        line = rest;
    }
    if (is_empty(take(&line, HOST)) || !pass(&line, " SIP/2.0"))
        return 0;
    pass(&line, "\r");
    return is_empty(line);
}

/* Call-ID and the like: words with one space between them. */
static int read_text(Part value, Part *text)
{
    value = stripped(value);
    if (!is_empty(value))
        *text = value;
    while (!is_empty(value))
        if (is_empty(take(&value, WORD)) || !(is_empty(value) || pass(&value, " ")))
            return 0;
    return 1;
}

static int read_cseq(Part value, Part *number, Part *method)
{
    value = stripped(value);
    *number = take(&value, DIGIT);
    if (is_empty(*number) || size_of(*number) > 18 || !pass(&value, " ")) /* so many digits surely fit into 64 bits */
        return 0;
    *method = take(&value, TOKEN);
    return !is_empty(*method) && is_empty(value);
}

/* From and To: a name-addr, with its tag before all other parameters. */
static int read_party(Part value, Part *user, Part *tag)
{
    value = stripped(value);
    if (pass(&value, "\"")) {
        if (has(take_until(&value, '"'), '\\') || !pass(&value, "\""))
            return 0;
        take(&value, SPACE);
    } else {
        take(&value, NAME);
    }
    if (!(pass(&value, "<sip:") || pass(&value, "<sips:")))
        return 0;
    Part uri = take_until(&value, '>');
    if (!pass(&value, ">"))
        return 0;
    if (has(uri, '@')) {
        *user = take(&uri, USER);
        if (is_empty(*user) || !pass(&uri, "@"))
            return 0;
    }
    if (is_empty(value))
        return 1;
    if (!pass(&value, ";tag="))
        return 0;
    *tag = take(&value, TOKEN);
    return !is_empty(*tag) && (is_empty(value) || (pass(&value, ";") && !has(value, '"')));
}

/* Via: the branch of the first one. */
static int read_branch(Part value, Part *branch)
{
    do {
        Part before = take_until(&value, ';');
        if (is_empty(value) || has(before, ',') || has(before, '"'))
            return 0;
    } while (!pass(&value, ";branch=") && pass(&value, ";"));
    *branch = take(&value, TOKEN);
    int ends = is_empty(value) || is_one(value, SPACE) || is_byte(value, ';') || is_byte(value, ',');
    return ends && !is_empty(*branch);
}

/* Return which header a line, which is not empty, is, and its value; HEADERS if it is none that counts. */
static int header_of(Part line, const Names *names, Part *value)
{
    for (uint64_t left = names->by_first[*line.at]; left; left &= left - 1) {
        int number = __builtin_ctzll(left);
        Part name = names->name[number];
        *value = line;
        for (; !is_empty(name) && is_byte(*value, *name.at ^ (is_one(*value, UPPER) ? 32 : 0)); name.at++)
            value->at++;
        while (is_byte(*value, ' ') || is_byte(*value, '\t'))
            value->at++;
        if (is_empty(name) && pass(value, ":"))
            return names->header[number];
    }
    return HEADERS;
}

/* Find the first value of each header, up to the blank line before the body. */
static int read_headers(Part lines, const Names *names, Part values[HEADERS])
{
    while (!is_empty(lines) && !is_byte(lines, '\n')) {
        Part line = take_until(&lines, '\n'), value;
        int is_whole = pass(&lines, "\n");
        if (is_whole && is_byte(line, '\r') && size_of(line) == 1)
            break;
        int header = header_of(line, names, &value);
        if (header == ODD)
            return 0;
        if (header == HEADERS || values[header].at)
            continue;
        if (is_byte(lines, ' ') || is_byte(lines, '\t')) /* it is folded */
            return 0;
        values[header] = value;
    }
    return 1;
}

static int read_message(Part message, const Names *names, Part fields[FIELDS])
{
    Part values[HEADERS] = {{NULL, NULL}};
    if (is_empty(message) || *message.at < ' ')
        return 0;
    Part line = take_until(&message, '\n');
    pass(&message, "\n");
    return read_start_line(line, fields) && read_headers(message, names, values)
           && (!values[CALL_ID].at || read_text(values[CALL_ID], &fields[CALL]))
           && (!values[CSEQ].at || read_cseq(values[CSEQ], &fields[NUMBER], &fields[NUMBERED]))
           && (!values[FROM].at || read_party(values[FROM], &fields[FROM_USER], &fields[FROM_TAG]))
           && (!values[TO].at || read_party(values[TO], &fields[TO_USER], &fields[TO_TAG]))
           && (!values[VIA].at || read_branch(values[VIA], &fields[BRANCH]))
           && (!values[USER_AGENT].at || read_text(values[USER_AGENT], &fields[AGENT]))
           && (fields[AGENT].at || !values[SERVER].at || read_text(values[SERVER], &fields[AGENT]));
}

/* Take the names apart: of each its length, its header, and its bytes. */
static int read_names(Part packed, Names *names)
{
    memset(names, 0, sizeof *names);
    for (int number = 0; !is_empty(packed); number++) {
        if (number == MAX_NAMES || size_of(packed) < 3 || size_of(packed) < 2 + packed.at[0] || !packed.at[0])
            return 0;
        Part name = {packed.at + 2, packed.at + 2 + packed.at[0]};
        names->name[number] = name;
        names->header[number] = packed.at[1];
        if (packed.at[1] >= HEADERS && packed.at[1] != ODD)
            return 0;
        names->by_first[*name.at] |= UINT64_C(1) << number;
        if (*name.at >= 'a' && *name.at <= 'z')
            names->by_first[*name.at - 32] |= UINT64_C(1) << number;
        packed.at = name.end;
    }
    return 1;
}

/* Read the messages, which lie between the count + 1 offsets; return how many are odd: these have no fields.
 *
 * spans: FIELDS times count; sizes: FIELDS, the sum of each one's spans; odd: a bit for each message.
 * Return -1 if the names or the offsets are wrong. */
PUBLIC int64_t sipdump_scan(const uint8_t *data, int64_t size, const int32_t *offsets, int64_t count,
                            const uint8_t *packed, int64_t packed_size, Span *spans, int64_t *sizes, uint8_t *odd)
{
    Names names;
    int64_t odd_rows = 0;
    if (count < 0 || packed_size < 0 || !read_names((Part){packed, packed + packed_size}, &names))
        return -1;
    memset(sizes, 0, FIELDS * sizeof *sizes);
    memset(odd, 0, (size_t)(count + 7) / 8);
    for (int64_t at = 0; at < count; at++) {
        Part fields[FIELDS] = {{NULL, NULL}};
        if (offsets[at] < 0 || offsets[at] > offsets[at + 1] || offsets[at + 1] > size)
            return -1;
        int is_usual = read_message((Part){data + offsets[at], data + offsets[at + 1]}, &names, fields);
        if (!is_usual) {
            set_bit(odd, at);
            odd_rows++;
        }
        for (int field = 0; field < FIELDS; field++) {
            Part value = fields[field];
            Span span = {0, -1};
            if (is_usual && value.at) {
                span = (Span){(int32_t)(value.at - data), (int32_t)size_of(value)};
                sizes[field] += span.size;
            }
            spans[field * count + at] = span;
        }
    }
    return odd_rows;
}

/* Put the values of one field one behind the other, at most capacity bytes; return how many are null.
 *
 * offsets: count + 1; valid: a bit for each value. Return -1 if the spans do not fit the data or the capacity. */
PUBLIC int64_t sipdump_gather(const uint8_t *data, int64_t size, const Span *spans, int64_t count, int32_t *offsets,
                              uint8_t *valid, uint8_t *values, int64_t capacity)
{
    int64_t used = 0, nulls = 0;
    memset(valid, 0, (size_t)(count + 7) / 8);
    for (int64_t at = 0; at < count; at++) {
        Span span = spans[at];
        offsets[at] = (int32_t)used;
        if (span.size < 0) {
            nulls++;
            continue;
        }
        if (span.at < 0 || span.at > size - span.size || span.size > capacity - used || capacity > INT32_MAX)
            return -1;
        memcpy(values + used, data + span.at, (size_t)span.size);
        set_bit(valid, at);
        used += span.size;
    }
    offsets[count] = (int32_t)used;
    return nulls;
}
