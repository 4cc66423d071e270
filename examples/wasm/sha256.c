/* Hashes a tree, in the format of `sha256sum`, with paths below DIRECTORY; check it with `sha256sum -c`.
 *
 *     sha256 DIRECTORY SUFFIX [OUTPUT]
 *
 * The algorithm is FIPS 180-4's. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tree.h"

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turn(uint32_t value, int by) {
    return (value >> by) | (value << (32 - by));
}

static void block(uint32_t state[8], const unsigned char *data) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16 | (uint32_t)data[4 * i + 2] << 8 | data[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >> 3);
        uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25);
        uint32_t first = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + K[i] + w[i];
        uint32_t a = turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22);
        uint32_t second = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += first;
        s[0] = first + second;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static void sha256(const unsigned char *data, size_t size, uint32_t state[8]) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(state, first, sizeof first);
    size_t whole = size / 64 * 64;
    for (size_t i = 0; i < whole; i += 64)
        block(state, data + i);
    unsigned char tail[128] = {0};
    size_t rest = size - whole, length = rest < 56 ? 64 : 128;
    memcpy(tail, data + whole, rest);
    tail[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[length - 1 - i] = (unsigned char)((uint64_t)size * 8 >> (8 * i));
    for (size_t i = 0; i < length; i += 64)
        block(state, tail + i);
}

struct output {
    FILE *file;
    size_t prefix; /* of the paths: the directory and its slash */
    unsigned long long files, bytes;
};

static int visit(const char *path, void *context) {
    struct output *output = context;
    size_t size;
    char *data = tree_read(path, &size);
    if (!data)
        return 1;
    uint32_t state[8];
    sha256((unsigned char *)data, size, state);
    for (int i = 0; i < 8; i++)
        fprintf(output->file, "%08x", state[i]);
    fprintf(output->file, "  %s\n", path + output->prefix);
    output->files++;
    output->bytes += size;
    free(data);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: sha256 DIRECTORY SUFFIX [OUTPUT]\n");
        return 2;
    }
    struct output output = {.file = argc > 3 ? fopen(argv[3], "w") : stdout, .prefix = strlen(argv[1]) + 1};
    if (!output.file) {
        fprintf(stderr, "%s: %s\n", argv[3], strerror(errno));
        return 1;
    }
    if (tree_walk(argv[1], argv[2], visit, &output) != 0)
        return 1;
    if (fflush(output.file) != 0) {
        fprintf(stderr, "%s\n", strerror(errno));
        return 1;
    }
    fprintf(stderr, "%llu files, %llu bytes\n", output.files, output.bytes);
    return 0;
}
