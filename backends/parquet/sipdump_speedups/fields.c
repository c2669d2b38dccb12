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

/* Python compares it with the source that it has, and uses no library of another version. */
PUBLIC const uint32_t sipdump_source = SIPDUMP_SOURCE;

/* Bytes to be read, none at the end or behind it. */
typedef struct {
    const uint8_t *at, *end;
} Part;

/* A value in the data; a size of -1 is null. */
typedef struct {
    int32_t at, size;
} Span;

/* native.py has both in this order. */
enum { CALL_ID, CSEQ, FROM, TO, VIA, USER_AGENT, SERVER, HEADERS, ODD = 255 };
enum { CALL, METHOD, STATUS, NUMBER, NUMBERED, FROM_USER, FROM_TAG, TO_USER, TO_TAG, URI_USER, BRANCH, AGENT, FIELDS };

#define MAX_NAMES 64

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

static int is_one(Part part, int class)
{
    return part.at < part.end && classes[*part.at] & class;
}

static int is_byte(Part part, uint8_t byte)
{
    return part.at < part.end && *part.at == byte;
}

/* Take all the bytes of a class that come next. */
static Part take(Part *from, int class)
{
    Part taken = *from;
    while (is_one(*from, class))
        from->at++;
    taken.end = from->at;
    return taken;
}

/* Pass over a literal; return whether it was there. */
static int pass(Part *from, const char *literal)
{
    size_t size = strlen(literal);
    if ((size_t)(from->end - from->at) < size || memcmp(from->at, literal, size) != 0)
        return 0;
    from->at += size;
    return 1;
}

/* Take all that comes before a byte, which may be absent. */
static Part take_until(Part *from, uint8_t byte)
{
    Part taken = *from;
    const uint8_t *found = from->at < from->end ? memchr(from->at, byte, (size_t)(from->end - from->at)) : NULL;
    taken.end = from->at = found ? found : from->end;
    return taken;
}

static int has(Part part, uint8_t byte)
{
    return take_until(&part, byte).end < part.end;
}

static int is_empty(Part part)
{
    return part.at == part.end;
}

static int64_t size_of(Part part)
{
    return part.end - part.at;
}

static Part stripped(Part part)
{
    take(&part, SPACE);
    while (!is_empty(part) && classes[part.end[-1]] & SPACE)
        part.end--;
    return part;
}

/* What is named read_... returns whether all is of the usual form; otherwise it may have found anything. */

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
    if (is_empty(*number) || size_of(*number) > 18 || !pass(&value, " ")) /* so many digits surely fit */
        return 0;
    *method = take(&value, TOKEN);
    return !is_empty(*method) && is_empty(value);
}

/* From and To: a name-addr, and its tag before all other parameters. */
static int read_party(Part value, Part *user, Part *tag)
{
    value = stripped(value);
    if (pass(&value, "\"")) {
        if (has(take_until(&value, '"'), '\\') || !pass(&value, "\""))
            return 0;
        take(&value, SPACE);
    } else
        take(&value, NAME);
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

/* Return which header a line is, and its value; HEADERS if it is none that counts. */
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
        int has_end = pass(&lines, "\n");
        if (has_end && *line.at == '\r' && size_of(line) == 1)
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
        if (number == MAX_NAMES || size_of(packed) < 3 || size_of(packed) < 2 + packed.at[0])
            return 0;
        Part name = {packed.at + 2, packed.at + 2 + packed.at[0]};
        names->name[number] = name;
        names->header[number] = packed.at[1];
        if (is_empty(name) || (packed.at[1] >= HEADERS && packed.at[1] != ODD))
            return 0;
        uint8_t first = *name.at;
        names->by_first[first] |= UINT64_C(1) << number;
        if (first >= 'a' && first <= 'z')
            names->by_first[first - 32] |= UINT64_C(1) << number;
        packed.at = name.end;
    }
    return 1;
}

static void set_bit(uint8_t *bits, int64_t at)
{
    bits[at / 8] |= (uint8_t)(1 << at % 8);
}

/* Read the messages, which lie between the count + 1 offsets; return how many are odd: these have no fields.
 *
 * spans: FIELDS times count; sizes: FIELDS, the sum of each one's spans; odd: (count + 7) / 8 bytes.
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
        int usual = read_message((Part){data + offsets[at], data + offsets[at + 1]}, &names, fields);
        if (!usual) {
            set_bit(odd, at);
            odd_rows++;
        }
        for (int column = 0; column < FIELDS; column++) {
            Part field = fields[column];
            Span span = {0, -1};
            if (usual && field.at) {
                span = (Span){(int32_t)(field.at - data), (int32_t)size_of(field)};
                sizes[column] += span.size;
            }
            spans[column * count + at] = span;
        }
    }
    return odd_rows;
}

/* Put the values of a column one behind the other, at most capacity bytes; return how many are null.
 *
 * offsets: count + 1; valid: (count + 7) / 8 bytes. Return -1 if the spans do not fit the data or the capacity. */
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
        if (span.at < 0 || span.at > size - span.size || span.size > capacity - used || used > INT32_MAX - span.size)
            return -1;
        memcpy(values + used, data + span.at, (size_t)span.size);
        set_bit(valid, at);
        used += span.size;
    }
    offsets[count] = (int32_t)used;
    return nulls;
}
