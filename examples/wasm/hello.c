/* Greets everyone named on its command line, and says what it sees of the world. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        printf("Hello, %s!\n", argv[i]);
    if (argc < 2)
        printf("Hello, world!\n");
    const char *execution = getenv("BACALHAU_EXECUTION_ID");
    const char *partition = getenv("BACALHAU_PARTITION_INDEX");
    printf("execution %s, partition %s\n", execution ? execution : "?", partition ? partition : "?");
    return 0;
}
