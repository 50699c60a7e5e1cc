/* What the test programs share: checks that count, and flows made by a formula that tests/c_api.rs knows too. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trafficgpt.h>

static int failures;

static inline void check(int good, const char *what, int line) {
  if (!good) {
    printf("line %d: %s\n", line, what);
    ++failures;
  }
}
#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

/* A call that must succeed; without it the rest of the program makes no sense. */
static inline void must(tgpt_status status, const tgpt_error *error, const char *call, int line) {
  if (status != TGPT_OK) {
    printf("line %d: %s: %s (%d): %s\n", line, call, tgpt_status_str(status), (int)status, error->msg);
    exit(1);
  }
}
#define MUST(call) must((call), &e, #call, __LINE__)

/* A place in a buffer, with the cast that C++ asks for. */
#define NEW(type, n) ((type *)calloc((n), sizeof(type)))

enum { N_FLOWS = 70, MAX_PACKETS = 21 };

typedef struct {
  tgpt_packet packets[N_FLOWS * MAX_PACKETS];
  uint64_t offsets[N_FLOWS + 1];
} batch;

static inline void fill(batch *b) {
  uint64_t at = 0;
  int flow, i;
  for (flow = 0; flow < N_FLOWS; ++flow) {
    const int n = 1 + flow * 7 % MAX_PACKETS;
    b->offsets[flow] = at;
    for (i = 0; i < n; ++i, ++at) {
      const int bytes = 40 + (flow * 31 + i * 17) % 1460;
      b->packets[at].size = i * (i + flow) % 5 > 1 ? -bytes : bytes;
      b->packets[at].ipt_us = i ? 0.25f * (float)((flow * 13 + i * 1013) % 1000 << (flow + i) % 12) : 0.0f;
    }
  }
  b->offsets[N_FLOWS] = at;
}

#endif
