/* Eight threads on one model, each with its own worker, give what one gives; one worker on two threads is refused. */
#define _POSIX_C_SOURCE 200112L
#include "check.h"
#include <pthread.h>

enum { THREADS = 8, ROUNDS = 5, MAX_LABELS = 64, GENERATED = 6, CAP = GENERATED * 8 };

typedef struct {
  uint32_t labels[N_FLOWS];
  float scores[N_FLOWS * MAX_LABELS];
  tgpt_packet packets[CAP];
  uint64_t offsets[GENERATED + 1];
} results;

static batch b;
static const tgpt_context *context;
static const tgpt_classifier *classifier;
static const tgpt_generator *generator;

static void work(tgpt_worker *worker, results *out) {
  tgpt_sampling sampling = TGPT_SAMPLING_INIT;
  tgpt_error e;
  sampling.seed = 3;
  sampling.max_packets = 8;
  MUST(tgpt_classify(classifier, worker, b.packets, b.offsets, N_FLOWS, out->labels, out->scores, &e));
  MUST(tgpt_generate(generator, worker, &sampling, GENERATED, out->packets, CAP, out->offsets, NULL, &e));
}

static void *own_worker(void *argument) {
  results *out = (results *)argument;
  tgpt_worker *worker = NULL;
  tgpt_error e;
  int round;
  MUST(tgpt_worker_new(context, &worker, &e));
  for (round = 0; round < ROUNDS; ++round) work(worker, out);
  tgpt_worker_free(worker);
  return NULL;
}

/* Two threads, one worker: every call succeeds or answers BUSY, until one of each was seen or time is up. */
static tgpt_worker *shared;
static int saw_busy, saw_ok;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *shared_worker(void *argument) {
  results *out = (results *)argument;
  int round, stop = 0;
  for (round = 0; round < 3000 && !stop; ++round) {
    tgpt_error e;
    const tgpt_status status =
        tgpt_classify(classifier, shared, b.packets, b.offsets, N_FLOWS, out->labels, out->scores, &e);
    pthread_mutex_lock(&lock);
    CHECK(status == TGPT_OK || (status == TGPT_E_BUSY && strstr(e.msg, "worker") != NULL));
    saw_ok |= status == TGPT_OK;
    saw_busy |= status == TGPT_E_BUSY;
    stop = saw_ok && saw_busy;
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

int main(int argc, char **argv) {
  static results alone, many[THREADS];
  pthread_t threads[THREADS];
  tgpt_config *config = NULL;
  tgpt_context *made = NULL;
  tgpt_classifier *c = NULL;
  tgpt_generator *g = NULL;
  tgpt_error e;
  int i;
  if (argc != 2) return 2;
  fill(&b);
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_context_new(config, NULL, &made, &e));
  MUST(tgpt_classifier_open(made, argv[1], &c, &e));
  MUST(tgpt_generator_open(made, argv[1], &g, &e));
  context = made;
  classifier = c;
  generator = g;
  if (tgpt_classifier_n_labels(c) > MAX_LABELS) return 2;
  own_worker(&alone);
  for (i = 0; i < THREADS; ++i) CHECK(pthread_create(&threads[i], NULL, own_worker, &many[i]) == 0);
  for (i = 0; i < THREADS; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  for (i = 0; i < THREADS; ++i) CHECK(memcmp(&alone, &many[i], sizeof alone) == 0);

  MUST(tgpt_worker_new(made, &shared, &e));
  for (i = 0; i < 2; ++i) CHECK(pthread_create(&threads[i], NULL, shared_worker, &many[i]) == 0);
  for (i = 0; i < 2; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(saw_ok && saw_busy);
  tgpt_worker_free(shared);
  tgpt_generator_free(g);
  tgpt_classifier_free(c);
  tgpt_context_free(made);
  tgpt_config_free(config);
  return failures != 0;
}
