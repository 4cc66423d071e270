/* Measures a tree of texts.
 *
 *     lines DIRECTORY SUFFIX OUTPUT.csv
 *
 * Writes `path,lines,bytes,longest` per file and prints the totals and a histogram of line lengths. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tree.h"

enum { STEP = 10, BUCKETS = 13, BAR = 50 }; /* the last bucket takes all that is longer */

struct totals {
    FILE *csv;
    unsigned long long files, lines, bytes, buckets[BUCKETS];
};

static int visit(const char *path, void *context) {
    struct totals *totals = context;
    size_t size, longest = 0, lines = 0;
    char *text = tree_read(path, &size);
    if (!text)
        return 1;
    for (char *start = text, *end = text + size; start < end;) {
        char *stop = memchr(start, '\n', (size_t)(end - start));
        if (!stop)
            stop = end;
        size_t length = (size_t)(stop - start), bucket = length / STEP;
        totals->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
        if (length > longest)
            longest = length;
        lines++;
        start = stop + 1;
    }
    fprintf(totals->csv, "%s,%zu,%zu,%zu\n", path, lines, size, longest);
    totals->files++;
    totals->lines += lines;
    totals->bytes += size;
    free(text);
    return 0;
}

static void histogram(const struct totals *totals) {
    unsigned long long highest = 1;
    for (int i = 0; i < BUCKETS; i++)
        if (totals->buckets[i] > highest)
            highest = totals->buckets[i];
    for (int i = 0; i < BUCKETS; i++) {
        printf("%4d%s %8llu ", i * STEP, i == BUCKETS - 1 ? "+   " : " -  ", totals->buckets[i]);
        for (unsigned long long bar = totals->buckets[i] * BAR / highest; bar; bar--)
            putchar('#');
        putchar('\n');
    }
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: lines DIRECTORY SUFFIX OUTPUT.csv\n");
        return 2;
    }
    struct totals totals = {.csv = fopen(argv[3], "w")};
    if (!totals.csv) {
        fprintf(stderr, "%s: %s\n", argv[3], strerror(errno));
        return 1;
    }
    fprintf(totals.csv, "path,lines,bytes,longest\n");
    if (tree_walk(argv[1], argv[2], visit, &totals) != 0)
        return 1;
    if (fclose(totals.csv) != 0) {
        fprintf(stderr, "%s: %s\n", argv[3], strerror(errno));
        return 1;
    }
    printf("%llu files, %llu lines, %llu bytes\n", totals.files, totals.lines, totals.bytes);
    histogram(&totals);
    return 0;
}
