/* What the parts of the fuzzing program share. */
#ifndef BLKIOMON_FUZZ_HARNESS_H
#define BLKIOMON_FUZZ_HARNESS_H

#include <stddef.h>
#include <stdint.h>

enum {
    OPTIONS = 16,                       /* bytes ahead of the stream that say how it is fed */
    MOST_ITEMS = 1 << 14,
};

/* A record, or the bytes up to the next one: what mutations move about. */
struct item {
    size_t at;
    size_t length;
    int version;                        /* 7 or 8; 0: no record */
    int big_endian;
};

/* Walk a stream with a reader of its own, which shares nothing with the engine's. */
size_t find_items(const uint8_t *data, size_t size, struct item *items, size_t most);

enum field { SEQUENCE, TIME, SECTOR, BYTES, ACTION, PID, DEVICE, CPU, ERROR_, PDU_LEN, FIELDS };

uint64_t get_field(const uint8_t *record, const struct item *item, enum field field);
void set_field(uint8_t *record, const struct item *item, enum field field, uint64_t value);

/* What the inputs of the target that runs are made of. */
enum mutation { STREAM, STATS, NUMBERS, TOKENS };
extern enum mutation mutation;

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(
    const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
    uint8_t *out, size_t max_size, unsigned int seed
);

#endif
