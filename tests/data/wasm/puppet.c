/* A module that does what its arguments say, one after another: the tests' hands inside a guest.
 *
 *     out TEXT | err TEXT        write text
 *     cat PATH | ls PATH         print a file, or the sorted names in a directory
 *     env NAME                   print a variable of the environment, or (none)
 *     args                       print the arguments, argv[0] included
 *     write PATH TEXT            make a file
 *     mkdir PATH                 make a directory
 *     try-write PATH             the same, and print whether it worked
 *     try-read PATH              print whether a file could be read
 *     link TARGET PATH           make a symbolic link, and print whether it worked
 *     flood BYTES                so many bytes on stdout (0: without end)
 *     fill PATH BYTES            a file of so many bytes (0: without end)
 *     litter PATH                empty files without end
 *     sleep MILLISECONDS         sleep
 *     spin                       burn CPU without end
 *     eat BYTES                  take and touch memory (0: until there is no more, then say how much)
 *     recurse                    call deeper and deeper
 *     random                     print 16 random bytes in hex
 *     trap | abort               crash
 *     exit CODE                  end
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char block[65536];

static void complain(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(90);
}

static void say(const char *verb, const char *path, int worked) {
    printf("%s %s: %s\n", verb, path, worked ? "yes" : strerror(errno));
}

static void cat(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        complain(path);
    for (size_t count; (count = fread(block, 1, sizeof block, file)) > 0;)
        fwrite(block, 1, count, stdout);
    fclose(file);
}

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void list(const char *path) {
    char *names[256];
    size_t count = 0;
    DIR *directory = opendir(path);
    if (!directory)
        complain(path);
    for (struct dirent *entry; count < 256 && (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            names[count++] = strdup(entry->d_name);
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++)
        puts(names[i]);
}

static int put(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (!file)
        return 0;
    int worked = fputs(text, file) >= 0;
    return fclose(file) == 0 && worked;
}

static int readable(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    int worked = fread(block, 1, 1, file) == 1;
    fclose(file);
    return worked;
}

static void pour(FILE *file, unsigned long long bytes) {
    memset(block, 'x', sizeof block);
    for (unsigned long long done = 0; !bytes || done < bytes;) {
        size_t step = !bytes || bytes - done > sizeof block ? sizeof block : (size_t)(bytes - done);
        if (fwrite(block, 1, step, file) != step)
            complain("pour");
        done += step;
    }
    fflush(file);
}

static void litter(const char *path) {
    for (unsigned long i = 0;; i++) {
        snprintf(block, sizeof block, "%s/%lu", path, i);
        if (!put(block, ""))
            complain(block);
    }
}

static char *volatile kept; /* so that the compiler does not leave the allocation out */

static void eat(unsigned long long bytes) {
    unsigned long long taken = 0;
    while (!bytes || taken < bytes) {
        char *piece = malloc(1 << 20);
        if (!piece) {
            printf("no more after %llu bytes\n", taken);
            exit(91);
        }
        memset(piece, 1, 1 << 20);
        kept = piece;
        taken += 1 << 20;
    }
    printf("took %llu bytes\n", taken);
}

static volatile int depth, bottom = -1;

__attribute__((noinline)) static int recurse(int n) {
    depth = n;
    return n == bottom ? 0 : recurse(n + 1) + depth;
}

static volatile unsigned long spun;

static void spin(void) {
    for (;;)
        spun++;
}

static void random_bytes(void) {
    unsigned char bytes[16];
    if (getentropy(bytes, sizeof bytes) != 0)
        complain("getentropy");
    for (size_t i = 0; i < sizeof bytes; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *verb = argv[i];
        const char *first = i + 1 < argc ? argv[i + 1] : "", *second = i + 2 < argc ? argv[i + 2] : "";
        int used = 1;
        fflush(stdout);
        if (!strcmp(verb, "out")) fputs(first, stdout);
        else if (!strcmp(verb, "err")) fputs(first, stderr);
        else if (!strcmp(verb, "cat")) cat(first);
        else if (!strcmp(verb, "ls")) list(first);
        else if (!strcmp(verb, "env")) puts(getenv(first) ? getenv(first) : "(none)");
        else if (!strcmp(verb, "write")) { used = 2; if (!put(first, second)) complain(first); }
        else if (!strcmp(verb, "mkdir")) { if (mkdir(first, 0755)) complain(first); }
        else if (!strcmp(verb, "try-write")) say(verb, first, put(first, "x"));
        else if (!strcmp(verb, "try-read")) say(verb, first, readable(first));
        else if (!strcmp(verb, "link")) { used = 2; say(verb, second, symlink(first, second) == 0); }
        else if (!strcmp(verb, "flood")) pour(stdout, strtoull(first, NULL, 10));
        else if (!strcmp(verb, "fill")) { used = 2; FILE *file = fopen(first, "w"); if (!file) complain(first); pour(file, strtoull(second, NULL, 10)); fclose(file); }
        else if (!strcmp(verb, "litter")) litter(first);
        else if (!strcmp(verb, "sleep")) { long ms = atol(first); struct timespec time = {ms / 1000, ms % 1000 * 1000000}; nanosleep(&time, NULL); }
        else if (!strcmp(verb, "eat")) eat(strtoull(first, NULL, 10));
        else if (!strcmp(verb, "exit")) exit((int)strtoul(first, NULL, 10));
        else {
            used = 0;
            if (!strcmp(verb, "args")) for (int k = 0; k < argc; k++) printf("%d [%s]\n", k, argv[k]);
            else if (!strcmp(verb, "spin")) spin();
            else if (!strcmp(verb, "recurse")) return recurse(0);
            else if (!strcmp(verb, "random")) random_bytes();
            else if (!strcmp(verb, "trap")) __builtin_trap();
            else if (!strcmp(verb, "abort")) abort();
            else { fprintf(stderr, "puppet: what is %s?\n", verb); return 92; }
        }
        i += used;
    }
    return 0;
}
