/* Searches a tree for a literal text.
 *
 *     grep [-i] [-C LINES] [-e SUFFIX] TEXT PATH...
 *
 * Prints `path:line:text` for each line that holds TEXT, with LINES of context (`path-line-text`) around it and `--`
 * between groups. -i ignores the case of ASCII letters. Exits with 0 when something was found, 1 when nothing was, 2 on
 * errors: like the tool it is named after. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tree.h"

struct search {
    const char *text;
    size_t length;
    int ignore_case;
    long context;
    unsigned long long found;
    int printed;
};

struct line {
    const char *start;
    size_t length;
};

static int same(const struct search *search, const char *at) {
    if (!search->ignore_case)
        return memcmp(at, search->text, search->length) == 0;
    for (size_t i = 0; i < search->length; i++)
        if (tolower((unsigned char)at[i]) != tolower((unsigned char)search->text[i]))
            return 0;
    return 1;
}

static int holds(const struct search *search, struct line line) {
    if (line.length < search->length)
        return 0;
    for (size_t i = 0; i + search->length <= line.length; i++)
        if (same(search, line.start + i))
            return 1;
    return 0;
}

static struct line *split(const char *text, size_t size, long *count) {
    long lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    struct line *result = malloc((size_t)(lines + 1) * sizeof *result);
    *count = 0;
    for (const char *start = text, *end = text + size; result && start < end;) {
        const char *stop = memchr(start, '\n', (size_t)(end - start));
        if (!stop)
            stop = end;
        result[(*count)++] = (struct line){start, (size_t)(stop - start)};
        start = stop + 1;
    }
    return result;
}

static void print(const char *path, long number, struct line line, char mark) {
    printf("%s%c%ld%c", path, mark, number + 1, mark);
    fwrite(line.start, 1, line.length, stdout);
    putchar('\n');
}

static int visit(const char *path, void *context) {
    struct search *search = context;
    size_t size;
    char *text = tree_read(path, &size);
    if (!text)
        return 2;
    long count = 0, next = 0; /* the first line that has not been printed */
    struct line *lines = split(text, size, &count);
    for (long i = 0; lines && i < count; i++) {
        if (!holds(search, lines[i]))
            continue;
        search->found++;
        long first = i - search->context > next ? i - search->context : next;
        if (search->context && search->printed && (first > next || next == 0))
            puts("--");
        for (; first < i; first++)
            print(path, first, lines[first], '-');
        if (i >= next)
            print(path, i, lines[i], ':');
        next = i + 1;
        for (; next < count && next <= i + search->context && !holds(search, lines[next]); next++)
            print(path, next, lines[next], '-');
        search->printed = 1;
    }
    free(lines);
    free(text);
    return 0;
}

int main(int argc, char **argv) {
    struct search search = {0};
    const char *suffix = "";
    for (int option; (option = getopt(argc, argv, "iC:e:")) != -1;) {
        switch (option) {
        case 'i': search.ignore_case = 1; break;
        case 'C': search.context = atol(optarg); break;
        case 'e': suffix = optarg; break;
        default: return 2;
        }
    }
    if (argc - optind < 2 || !*argv[optind]) {
        fprintf(stderr, "usage: grep [-i] [-C LINES] [-e SUFFIX] TEXT PATH...\n");
        return 2;
    }
    search.text = argv[optind];
    search.length = strlen(search.text);
    for (int i = optind + 1; i < argc; i++)
        if (tree_walk(argv[i], suffix, visit, &search) != 0)
            return 2;
    fprintf(stderr, "lines found: %llu\n", search.found);
    return search.found ? 0 : 1;
}
