/* Ends with the exit code given as its argument: `exitcode 3`. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int code = argc > 1 ? atoi(argv[1]) : 0;
    fprintf(stderr, "ending with %d\n", code);
    return code;
}
