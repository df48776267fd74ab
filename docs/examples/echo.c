/* A node of a bus, in C: it answers every request with what it was asked.
 *
 *     cc echo.c -lzmq -o echo && ./echo ipc:///tmp/campus server [WORD]
 *
 * It speaks the protocol of docs/protocol.md with libzmq and nothing else: it joins, obeys the
 * orders that faults mean for it, holds each message until its time, answers it, and says that it
 * has taken it up. It ends when the bus says that the run is over. Small messages only: a payload
 * part of 64 KiB and more comes as a part of its own, and is passed over here.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef WITHOUT_ZMQ_H /* the few declarations that are used, where only the library is there */
void *zmq_ctx_new(void);
int zmq_ctx_term(void *);
void *zmq_socket(void *, int);
int zmq_setsockopt(void *, int, const void *, size_t);
int zmq_getsockopt(void *, int, void *, size_t *);
int zmq_connect(void *, const char *);
int zmq_send(void *, const void *, size_t, int);
int zmq_recv(void *, void *, size_t, int);
int zmq_close(void *);
enum { ZMQ_DEALER = 5, ZMQ_RCVMORE = 13, ZMQ_LINGER = 17, ZMQ_RCVTIMEO = 27 };
#else
#include <zmq.h>
#endif

typedef uint8_t byte;

static void fail(const char *why) {
    fprintf(stderr, "echo: %s\n", why);
    exit(1);
}

/* SHA-256 (FIPS 180-4) and HMAC (RFC 2104): a bus asks for a proof that we know its word. */

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))

static void mix(uint32_t state[8], const byte block[64]) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (TURN(w[i - 15], 7) ^ TURN(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (TURN(w[i - 2], 17) ^ TURN(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t one = s[7] + (TURN(s[4], 6) ^ TURN(s[4], 11) ^ TURN(s[4], 25)) +
                       ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        uint32_t two = (TURN(s[0], 2) ^ TURN(s[0], 13) ^ TURN(s[0], 22)) +
                       ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256(const byte *text, size_t size, byte out[32]) {
    uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    byte last[128] = {0};
    size_t whole = size / 64 * 64, rest = size - whole, end = rest < 56 ? 64 : 128;
    for (size_t at = 0; at < whole; at += 64) mix(state, text + at);
    memcpy(last, text + whole, rest);
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++) last[end - 1 - i] = (byte)((uint64_t)size * 8 >> 8 * i);
    for (size_t at = 0; at < end; at += 64) mix(state, last + at);
    for (int i = 0; i < 32; i++) out[i] = (byte)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void hmac(const byte *key, size_t key_size, const byte *text, size_t size, byte out[32]) {
    byte inner[64 + 512], outer[64 + 32], pad[64] = {0};
    if (key_size > 64 || size > 512) fail("the word or the name is too long");
    memcpy(pad, key, key_size);
    for (int i = 0; i < 64; i++) inner[i] = pad[i] ^ 0x36, outer[i] = pad[i] ^ 0x5c;
    memcpy(inner + 64, text, size);
    sha256(inner, 64 + size, outer + 64);
    sha256(outer, sizeof outer, out);
}

/* Numbers on the wire are big-endian. */

static uint64_t get(const byte *at, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value = value << 8 | at[i];
    return value;
}

static byte *put(byte *at, uint64_t value, int size) {
    for (int i = 0; i < size; i++) at[i] = (byte)(value >> 8 * (size - 1 - i));
    return at + size;
}

/* As much of msgpack as is needed: to step over a value, and to find a key in a map. */

typedef struct {
    enum { OTHER, INTEGER, BYTES, LIST, MAP } kind;
    int64_t number;   /* INTEGER */
    uint32_t count;   /* LIST, MAP: entries; BYTES: length, text included */
    const byte *next; /* where its content begins */
} Value;

static Value look(const byte *at) {
    byte tag = *at++;
    Value found = {OTHER, 0, 0, at};
    if (tag < 0x80 || tag >= 0xe0) return (Value){INTEGER, (int8_t)tag, 0, at};
    if (tag < 0x90) return (Value){MAP, 0, tag & 15, at};
    if (tag < 0xa0) return (Value){LIST, 0, tag & 15, at};
    if (tag < 0xc0) return (Value){BYTES, 0, tag & 31, at};
    static const signed char sizes[] = {/* c4 */ 1, 2, 4, 0, 0, 0, /* ca */ -4, -8, /* cc */ 1, 2,
                                        4,          8, 1, 2, 4, 8};
    if (tag >= 0xc4 && tag <= 0xd3) {
        int size = sizes[tag - 0xc4];
        if (size < 0) { /* a float */
            found.next = at - size;
        } else if (tag >= 0xcc) {
            uint64_t bits = get(at, size);
            int shift = tag >= 0xd0 ? 64 - 8 * size : 0;
            found = (Value){INTEGER, (int64_t)(bits << shift) >> shift, 0, at + size};
        } else if (size) {
            found = (Value){BYTES, 0, (uint32_t)get(at, size), at + size};
        } else {
            fail("an extension of msgpack");
        }
    } else if (tag >= 0xd9 && tag <= 0xdb) {
        int size = 1 << (tag - 0xd9);
        found = (Value){BYTES, 0, (uint32_t)get(at, size), at + size};
    } else if (tag >= 0xdc) {
        int size = tag & 1 ? 4 : 2;
        found = (Value){tag < 0xde ? LIST : MAP, 0, (uint32_t)get(at, size), at + size};
    }
    return found;
}

static const byte *skip(const byte *at) {
    Value value = look(at);
    if (value.kind == BYTES) return value.next + value.count;
    at = value.next;
    for (uint32_t left = value.kind == MAP ? 2 * value.count : value.count; left; left--)
        at = skip(at);
    return at;
}

static int is(const byte *at, const char *word) {
    Value value = look(at);
    return value.kind == BYTES && value.count == strlen(word) &&
           !memcmp(value.next, word, value.count);
}

static const byte *find(const byte *map, const char *key) {
    Value value = look(map);
    const byte *at = value.next;
    for (uint32_t i = 0; value.kind == MAP && i < value.count; i++) {
        if (is(at, key)) return skip(at);
        at = skip(skip(at));
    }
    return NULL;
}

static byte *text(byte *at, const void *from, size_t size, byte tag8) {
    *at++ = tag8; /* c4: bytes, d9: text */
    *at++ = (byte)size;
    memcpy(at, from, size);
    return at + size;
}

/* Frames. */

enum { HELLO = 1, SEND, QUIET, DELIVER, ADVANCE, DESCRIBE, CLOSE, ORDERS, RECEIPT };
enum { ANSWER = 8, REQUEST = 32, PREFIX = 57, MOST = 1 << 22 };
#define NOBODY 0xffffffffu

static void *bus;
static uint64_t word; /* stands in the first frame of each of our packets */
static uint64_t start_ns, sequence;
static uint32_t me;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - (int64_t)start_ns;
}

/* A packet of one frame whose rest (purpose, body, lengths of parts, parts) is given. */
static void send_frame(int kind, int flags, int parts, uint32_t source, uint32_t destination,
                       uint64_t number, uint64_t answers, int purpose, uint32_t body,
                       const byte *rest, size_t size) {
    byte *packet = malloc(4 + PREFIX + size), *at = packet;
    at = put(put(put(at, 'A', 1), '2', 1), 1, 2);
    at = put(put(put(at, kind, 1), flags, 1), parts, 2);
    at = put(put(at, source, 4), destination, 4);
    at = put(put(at, number, 8), answers, 8);
    at = put(put(put(at, kind == SEND ? now_ns() : 0, 8), word, 8), 0, 8);
    at = put(put(at, purpose, 1), body, 4);
    memcpy(at, rest, size);
    if (zmq_send(bus, packet, 4 + PREFIX + size, 0) < 0) fail("can't send");
    free(packet);
}

static void say(int kind, const byte *body, const byte *end) {
    send_frame(kind, 0, 0, NOBODY, NOBODY, 0, 0, 0, (uint32_t)(end - body), body, end - body);
}

static byte packet[MOST];

static int receive(int timeout_ms) {
    int more = 0, size;
    size_t length = sizeof more;
    zmq_setsockopt(bus, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    size = zmq_recv(bus, packet, sizeof packet, 0);
    if (size < 0) return 0;
    if (size < 4 || size > MOST || packet[0] != 'A' || packet[1] != '2') fail("no packet");
    for (;;) {
        byte part[1];
        zmq_getsockopt(bus, ZMQ_RCVMORE, &more, &length);
        if (!more) return size;
        zmq_recv(bus, part, sizeof part, 0);
    }
}

static size_t frame_size(const byte *frame) { /* without parts that travel apart */
    size_t size = PREFIX + frame[52] + get(frame + 53, 4);
    int parts = (int)get(frame + 2, 2);
    const byte *lengths = frame + size;
    size += 4 * parts;
    for (int i = 0; i < parts; i++)
        if (!(lengths[4 * i] & 0x80)) size += get(lengths + 4 * i, 4);
    return size;
}

static const byte *hello(void) {
    for (int tries = 0; tries < 10; tries++)
        if (receive(3000) && packet[4] == HELLO) return packet + 4 + PREFIX;
    fail("the bus does not let us in");
    return NULL;
}

static void join(const char *name, const char *secret) {
    byte body[512], said[512], proof[32], *at;
    size_t length = strlen(name);
    if (length > 200) fail("the name is too long");
    say(HELLO, (const byte *)"\x80", (const byte *)"\x80" + 1);
    const byte *question = find(hello(), "question");
    if (!question) fail("no question");
    memcpy(said, look(question).next, 16);
    said[16] = 0;
    memcpy(said + 17, name, length);
    hmac((const byte *)secret, strlen(secret), said, 17 + length, proof);
    at = put(body, 0x82, 1);
    at = put(text(at, "nodes", 5, 0xd9), 0x91, 1);
    at = text(text(at, name, length, 0xd9), "proof", 5, 0xd9);
    at = text(at, proof, 32, 0xc4);
    say(HELLO, body, at);
    const byte *welcome = hello(), *names = find(welcome, "names");
    word = (uint64_t)look(find(welcome, "word")).number;
    Value list = look(names);
    const byte *entry = list.next;
    for (me = 0; me < list.count && !is(entry, name); me++) entry = skip(entry);
    /* Whatever came in the same packet (the time) is read where all else is: it comes again. */
}

/* Messages wait here until their time. */

typedef struct Held {
    int64_t due_ns;
    struct Held *next;
    byte frame[];
} Held;

static Held *held;
static int alive, paused, over;

static void hold(const byte *frame) {
    size_t size = frame_size(frame);
    Held *one = malloc(sizeof *one + size), **at = &held;
    one->due_ns = (int64_t)get(frame + 36, 8);
    memcpy(one->frame, frame, size);
    while (*at && (*at)->due_ns <= one->due_ns) at = &(*at)->next;
    one->next = *at;
    *at = one;
}

static void obey(const byte *body) {
    const byte *actions = find(body, "actions");
    Value list = look(actions);
    const byte *at = list.next;
    for (uint32_t i = 0; i < list.count; i++, at = skip(at)) {
        const byte *action = look(at).next;
        if (look(skip(action)).number != me) continue;
        if (is(action, "boot")) alive = 1;
        if (is(action, "crash") || is(action, "stop")) alive = 0;
        if (is(action, "pause")) paused = *skip(skip(action)) == 0xc3;
    }
}

static void answer(const byte *frame) {
    size_t size = frame_size(frame);
    uint32_t source = (uint32_t)get(frame + 4, 4);
    byte body[64], *at = put(body, 0x81, 1);
    at = put(put(text(at, "receipts", 8, 0xd9), 0x91, 1), 0x95, 1);
    at = put(put(at, 0xd3, 1), now_ns(), 8);
    at = put(put(put(at, 0xce, 1), me, 4), 0xce, 1);
    at = put(put(put(at, source, 4), 0xce, 1), size, 4);
    *at++ = 0xc2;
    say(QUIET, body, at);
    if (frame[1] & REQUEST)
        send_frame(SEND, ANSWER, (int)get(frame + 2, 2), me, source, ++sequence,
                   get(frame + 12, 8), frame[52], (uint32_t)get(frame + 53, 4), frame + PREFIX,
                   size - PREFIX);
}

static void hear(int size) {
    for (const byte *frame = packet + 4; frame < packet + size; frame += frame_size(frame)) {
        if (frame[0] == ADVANCE) start_ns = get(frame + 28, 8);
        if (frame[0] == CLOSE) over = 1;
        if (frame[0] == ORDERS) {
            /* A client that does more should wait until `instant`, as messages wait for `due`. */
            obey(frame + PREFIX);
        }
        if (frame[0] == DELIVER && get(frame + 8, 4) == me) hold(frame);
    }
}

int main(int count, char **arguments) {
    void *context = zmq_ctx_new();
    int linger = 500;
    if (count < 3) fail("usage: echo ENDPOINT NODE [WORD]");
    bus = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(bus, ZMQ_LINGER, &linger, sizeof linger);
    if (zmq_connect(bus, arguments[1])) fail("no endpoint");
    join(arguments[2], count > 3 ? arguments[3] : "");
    while (!over) {
        int64_t wait_ns = held && !paused ? held->due_ns - now_ns() : 100000000;
        if (wait_ns > 0) {
            int size = receive(wait_ns > 100000000 ? 100 : (int)((wait_ns + 999999) / 1000000));
            if (size) hear(size);
        } else {
            Held *first = held;
            held = first->next;
            if (alive) answer(first->frame);
            free(first);
        }
    }
    static const byte bye[] = {0x81, 0xd9, 3, 'b', 'y', 'e', 0xc3};
    say(QUIET, bye, bye + sizeof bye);
    zmq_close(bus);
    zmq_ctx_term(context);
    return 0;
}
