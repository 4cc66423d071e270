#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static int ends_with(const char *text, const char *suffix) {
    size_t length = strlen(text), tail = strlen(suffix);
    return length >= tail && memcmp(text + length - tail, suffix, tail) == 0;
}

/* Returns the sorted names in a directory, NULL-terminated; NULL with errno set when it cannot be read. */
static char **names_in(const char *path) {
    DIR *directory = opendir(path);
    if (!directory)
        return NULL;
    size_t count = 0, room = 16;
    char **names = malloc((room + 1) * sizeof *names);
    for (struct dirent *entry; names && (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (count == room) {
            room *= 2;
            names = realloc(names, (room + 1) * sizeof *names);
            if (!names)
                break;
        }
        names[count++] = strdup(entry->d_name);
    }
    closedir(directory);
    if (!names)
        return NULL;
    names[count] = NULL;
    qsort(names, count, sizeof *names, by_name);
    return names;
}

static int walk_directory(const char *path, const char *suffix, tree_visit visit, void *context) {
    char **names = names_in(path);
    if (!names) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    int result = 0;
    for (char **name = names; *name; name++) {
        if (result == 0) {
            size_t length = strlen(path) + strlen(*name) + 2;
            char *child = malloc(length);
            snprintf(child, length, "%s/%s", path, *name);
            struct stat status;
            /* Links are not followed: they may lead out of the input, where nothing is. */
            if (lstat(child, &status) == 0) {
                if (S_ISDIR(status.st_mode))
                    result = walk_directory(child, suffix, visit, context);
                else if (S_ISREG(status.st_mode) && ends_with(child, suffix))
                    result = visit(child, context);
            }
            free(child);
        }
        free(*name);
    }
    free(names);
    return result;
}

int tree_walk(const char *root, const char *suffix, tree_visit visit, void *context) {
    struct stat status;
    if (stat(root, &status) != 0) {
        fprintf(stderr, "%s: %s\n", root, strerror(errno));
        return -1;
    }
    if (S_ISDIR(status.st_mode))
        return walk_directory(root, suffix, visit, context);
    return ends_with(root, suffix) ? visit(root, context) : 0;
}

char *tree_read(const char *path, size_t *size) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &status) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        if (file)
            fclose(file);
        return NULL;
    }
    char *data = malloc((size_t)status.st_size + 1);
    if (!data) {
        fprintf(stderr, "%s: %lld bytes do not fit into memory\n", path, (long long)status.st_size);
        fclose(file);
        return NULL;
    }
    *size = fread(data, 1, (size_t)status.st_size, file);
    data[*size] = '\0';
    fclose(file);
    return data;
}
