/* Greets everyone named on its command line, and says which execution it is. Speaks WASI preview 1 itself, without a C
 * library: the module is so small that a job file can carry it. */
#include <stddef.h>
#include <stdint.h>
#include <wasi/api.h>

enum { WORDS_MAX = 64, BYTES_MAX = 4096, STDOUT = 1 };

static uint8_t *words[WORDS_MAX];
static uint8_t bytes[BYTES_MAX];

static void say(const char *text) {
    size_t left = 0;
    while (text[left])
        left++;
    while (left) {
        __wasi_ciovec_t piece = {(const uint8_t *)text, left};
        size_t written = 0;
        if (__wasi_fd_write(STDOUT, &piece, 1, &written))
            __wasi_proc_exit(1);
        text += written;
        left -= written;
    }
}

static const char *value(const char *entry, const char *name) {
    while (*name && *entry == *name)
        entry++, name++;
    return !*name && *entry == '=' ? entry + 1 : NULL;
}

void _start(void) {
    size_t count = 0, size = 0;
    if (__wasi_args_sizes_get(&count, &size) || count > WORDS_MAX || size > BYTES_MAX || __wasi_args_get(words, bytes))
        __wasi_proc_exit(2);
    for (size_t i = 1; i < count || i == 1; i++) {
        say("Hello, ");
        say(i < count ? (const char *)words[i] : "world");
        say("!\n");
    }
    const char *execution = "(unknown)";
    if (!__wasi_environ_sizes_get(&count, &size) && count <= WORDS_MAX && size <= BYTES_MAX
        && !__wasi_environ_get(words, bytes))
        for (size_t i = 0; i < count; i++) {
            const char *found = value((const char *)words[i], "BACALHAU_EXECUTION_ID");
            execution = found ? found : execution;
        }
    say("This is execution ");
    say(execution);
    say(".\n");
    __wasi_proc_exit(0);
}
