/* Walks directory trees and reads whole files: what the examples have in common. */
#ifndef TREE_H
#define TREE_H

#include <stddef.h>

/* Called for every regular file. `path` as the guest sees it; return non-zero to stop the walk. */
typedef int (*tree_visit)(const char *path, void *context);

/* Visits the regular files below `root` (or `root` itself) whose name ends in `suffix` ("" for all), in byte order of
   their names, so that output does not depend on the disk. Returns 0, the visitor's value, or -1 with a message. */
int tree_walk(const char *root, const char *suffix, tree_visit visit, void *context);

/* Reads a file into memory that the caller frees, with a NUL after it. Returns NULL with a message. */
char *tree_read(const char *path, size_t *size);

#endif
