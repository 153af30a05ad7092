/* Drives the targets where there is no libFuzzer: the same mutations, without guidance.
 *
 *     blind -max_total_time=SECONDS -seed=NUMBER CORPUS...      mutate what stands in the folders
 *     blind FILE...                                             run files as they are
 *
 * What is running stands in blind-input, in the folder of -artifact_prefix, if it fails or hangs.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

enum { MOST_INPUTS = 4096, MOST_BYTES = 1 << 16 };

static struct { uint8_t *data; size_t size; } inputs[MOST_INPUTS];
static size_t n_inputs;
static unsigned int state = 1;

static unsigned int any(unsigned int below)
{
    return (unsigned int)rand_r(&state) % below;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    if (size < max_size && any(4) == 0)
        data[size++] = (uint8_t)any(256);
    for (unsigned int i = any(4); size && i < 4; i++)
        data[any((unsigned int)size)] ^= (uint8_t)(1u << any(8));
    return size;
}

static void add_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(MOST_BYTES);

    if (!file || !data || n_inputs == MOST_INPUTS) {
        perror(path);
        exit(2);
    }
    inputs[n_inputs].size = fread(data, 1, MOST_BYTES, file);
    inputs[n_inputs++].data = data;
    fclose(file);
}

static void add(const char *path)
{
    struct stat status;
    struct dirent **entries;
    char name[4096];
    int n;

    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        n = scandir(path, &entries, NULL, alphasort);
        for (int i = 0; i < n; i++) {
            snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
            if (entries[i]->d_name[0] != '.')
                add_file(name);
            free(entries[i]);
        }
        if (n >= 0)
            free(entries);
    } else {
        add_file(path);
    }
}

/* An input of exactly its size, so that a byte read behind it is seen. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);

    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int argc, char **argv)
{
    static uint8_t data[MOST_BYTES], mixed[MOST_BYTES];
    const char *prefix = "";
    char artifact[4096];
    long seconds = 0, most_s = 60;
    time_t end;
    size_t size, i;

    for (int a = 1; a < argc; a++) {
        if (sscanf(argv[a], "-max_total_time=%ld", &seconds) == 1 ||
            sscanf(argv[a], "-timeout=%ld", &most_s) == 1 ||
            sscanf(argv[a], "-seed=%u", &state) == 1)
            continue;
        if (strncmp(argv[a], "-artifact_prefix=", 17) == 0)
            prefix = argv[a] + 17;
        else if (argv[a][0] != '-')
            add(argv[a]);
    }
    snprintf(artifact, sizeof(artifact), "%sblind-input", prefix);
    LLVMFuzzerInitialize(&argc, &argv);
    for (i = 0; i < n_inputs; i++)
        run(inputs[i].data, inputs[i].size);
    end = time(NULL) + seconds;
    while (n_inputs && time(NULL) < end) {
        i = any((unsigned int)n_inputs);
        size = inputs[i].size;
        memcpy(data, inputs[i].data, size);
        if (any(8) == 0) {
            i = any((unsigned int)n_inputs);
            size = LLVMFuzzerCustomCrossOver(data, size, inputs[i].data, inputs[i].size,
                                             mixed, sizeof(mixed), (unsigned int)rand_r(&state));
            memcpy(data, mixed, size);
        }
        for (unsigned int n = any(8) + 1; n; n--)
            size = LLVMFuzzerCustomMutator(data, size, sizeof(data),
                                           (unsigned int)rand_r(&state));
        FILE *file = fopen(artifact, "wb");
        if (file) {
            fwrite(data, 1, size, file);
            fclose(file);
        }
        alarm((unsigned int)most_s);
        run(data, size);
    }
    alarm(0);
    unlink(artifact);
    return 0;
}
