/* Counts identifiers in a tree of sources.
 *
 *     wordcount DIRECTORY SUFFIX OUTPUT.csv [TOP]
 *
 * Writes every identifier of three characters or more as `identifier,count,files`, the most frequent first, and prints the
 * TOP (default 10) of them. Exits with 2 when it was called wrongly, 1 when something could not be read or written. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tree.h"

enum { SHORTEST = 3, FIRST_ROOM = 1 << 12 };

struct entry {
    char *word; /* NULL: free */
    unsigned count, files, last_file;
};

struct table {
    struct entry *entries; /* open addressing; room is a power of two */
    size_t room, used;
    unsigned files;
    unsigned long long words, bytes;
};

static unsigned hash(const char *word, size_t length) {
    unsigned value = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)word[i]) * 16777619u;
    return value;
}

static struct entry *find(struct table *table, const char *word, size_t length) {
    for (size_t i = hash(word, length);; i++) {
        struct entry *entry = &table->entries[i & (table->room - 1)];
        if (!entry->word || (strncmp(entry->word, word, length) == 0 && entry->word[length] == '\0'))
            return entry;
    }
}

static void grow(struct table *table) {
    struct table bigger = *table;
    bigger.room = table->room ? table->room * 2 : FIRST_ROOM;
    bigger.entries = calloc(bigger.room, sizeof *bigger.entries);
    if (!bigger.entries) {
        fprintf(stderr, "out of memory after %zu identifiers\n", table->used);
        exit(1);
    }
    for (size_t i = 0; i < table->room; i++)
        if (table->entries[i].word)
            *find(&bigger, table->entries[i].word, strlen(table->entries[i].word)) = table->entries[i];
    free(table->entries);
    *table = bigger;
}

static void count(struct table *table, const char *word, size_t length) {
    if (table->used * 4 >= table->room * 3)
        grow(table);
    struct entry *entry = find(table, word, length);
    if (!entry->word) {
        entry->word = strndup(word, length);
        table->used++;
    }
    entry->count++;
    table->words++;
    if (entry->last_file != table->files) {
        entry->last_file = table->files;
        entry->files++;
    }
}

static int visit(const char *path, void *context) {
    struct table *table = context;
    size_t size;
    char *text = tree_read(path, &size);
    if (!text)
        return 1;
    table->files++;
    table->bytes += size;
    for (char *at = text; at < text + size;) {
        if (!isalpha((unsigned char)*at) && *at != '_') {
            at++;
            continue;
        }
        char *start = at;
        while (isalnum((unsigned char)*at) || *at == '_')
            at++;
        if (at - start >= SHORTEST)
            count(table, start, (size_t)(at - start));
    }
    free(text);
    return 0;
}

static int by_count(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->word, b->word);
}

static int report(struct table *table, const char *path, size_t top) {
    struct entry *sorted = table->entries; /* the table has done its work: sort in place */
    size_t used = 0;
    for (size_t i = 0; i < table->room; i++)
        if (table->entries[i].word)
            sorted[used++] = table->entries[i];
    if (used)
        qsort(sorted, used, sizeof *sorted, by_count);
    FILE *file = fopen(path, "w");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    fprintf(file, "identifier,count,files\n");
    for (size_t i = 0; i < used; i++)
        fprintf(file, "%s,%u,%u\n", sorted[i].word, sorted[i].count, sorted[i].files);
    if (fclose(file) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 1;
    }
    printf("%u files, %llu bytes, %llu identifiers, %zu different\n", table->files, table->bytes, table->words, used);
    for (size_t i = 0; i < used && i < top; i++)
        printf("%8u  %s\n", sorted[i].count, sorted[i].word);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: wordcount DIRECTORY SUFFIX OUTPUT.csv [TOP]\n");
        return 2;
    }
    struct table table = {0};
    if (tree_walk(argv[1], argv[2], visit, &table) != 0)
        return 1;
    return report(&table, argv[3], argc > 4 ? (size_t)atoi(argv[4]) : 10);
}
