/* Greets everyone named on its command line, and says which execution it is. Without stdio: the module stays so small
 * that a job file can carry it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void say(const char *text) {
    for (size_t left = strlen(text); left;) {
        ssize_t written = write(STDOUT_FILENO, text, left);
        if (written < 0)
            exit(1);
        text += written;
        left -= (size_t)written;
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc || i == 1; i++) {
        say("Hello, ");
        say(i < argc ? argv[i] : "world");
        say("!\n");
    }
    const char *execution = getenv("BACALHAU_EXECUTION_ID");
    say("This is execution ");
    say(execution ? execution : "(unknown)");
    say(".\n");
    return 0;
}
