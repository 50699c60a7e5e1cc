/* One thread pushes and polls, others swap classifiers and read statistics: every flow gets its final verdict. And one
 * table on two threads is refused, not raced. */
#define _POSIX_C_SOURCE 200112L
#include "check.h"
#include <pthread.h>

enum { ROUNDS = 40, FLOWS = 50, PACKETS = 5 };

static tgpt_flows *flows;
static const tgpt_classifier *classifiers[2];
static int stop, saw_busy, saw_ok;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int stopped(void) {
  int out;
  pthread_mutex_lock(&lock);
  out = stop;
  pthread_mutex_unlock(&lock);
  return out;
}

static void set_stop(int value) {
  pthread_mutex_lock(&lock);
  stop = value;
  pthread_mutex_unlock(&lock);
}

static void *swapper(void *argument) {
  unsigned i;
  (void)argument;
  for (i = 0; !stopped(); ++i) {
    char json[2048];
    size_t needed;
    tgpt_error e;
    MUST(tgpt_flows_swap(flows, classifiers[i % 2], NULL, &e));
    MUST(tgpt_flows_stats(flows, json, sizeof json, &needed, &e));
    (void)tgpt_flows_due(flows);
  }
  return NULL;
}

static tgpt_observation packet(unsigned flow, unsigned i) {
  tgpt_observation o;
  memset(&o, 0, sizeof o);
  memcpy(o.src, &flow, sizeof flow);
  o.dst[0] = 1;
  o.ts_ns = 1000000000u + i * 1000u;
  o.size = 100;
  return o;
}

static size_t poll_all(void) {
  tgpt_verdict out[32];
  size_t n, i, finals = 0;
  tgpt_error e;
  do {
    MUST(tgpt_flows_poll(flows, 0, out, 32, &n, &e));
    for (i = 0; i < n; ++i) finals += out[i].is_final;
  } while (n == 32);
  return finals;
}

static void *pusher(void *argument) {
  int i;
  (void)argument;
  for (i = 0; i < 200000 && !stopped(); ++i) {
    tgpt_observation burst[64];
    tgpt_error e;
    tgpt_status status;
    unsigned j;
    for (j = 0; j < 64; ++j) burst[j] = packet(j, 0);
    status = tgpt_flows_push(flows, burst, 64, &e);
    pthread_mutex_lock(&lock);
    CHECK(status == TGPT_OK || (status == TGPT_E_BUSY && strstr(e.msg, "flows") != NULL));
    saw_ok |= status == TGPT_OK;
    saw_busy |= status == TGPT_E_BUSY;
    stop |= saw_ok && saw_busy;
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[3];
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_classifier *made[2] = {NULL, NULL};
  tgpt_error e;
  size_t finals = 0;
  unsigned round, i, flow;
  if (argc != 3) return 2;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_config_set(config, "flows.counts", "2,5", &e));
  MUST(tgpt_config_set(config, "flows.confidence", "1", &e));
  MUST(tgpt_config_set(config, "flows.max_flows", "3000", &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  for (i = 0; i < 2; ++i) {
    MUST(tgpt_classifier_open(context, argv[1 + i], &made[i], &e));
    classifiers[i] = made[i];
  }
  MUST(tgpt_flows_new(made[0], config, &flows, &e));
  for (i = 0; i < 3; ++i) CHECK(pthread_create(&threads[i], NULL, swapper, NULL) == 0);
  for (round = 0; round < ROUNDS; ++round)
    for (i = 0; i < PACKETS; ++i) {
      tgpt_observation burst[FLOWS];
      for (flow = 0; flow < FLOWS; ++flow) burst[flow] = packet(round * FLOWS + flow, i);
      MUST(tgpt_flows_push(flows, burst, FLOWS, &e));
      finals += poll_all();
    }
  set_stop(1);
  for (i = 0; i < 3; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(finals == ROUNDS * FLOWS);

  set_stop(0);
  for (i = 0; i < 2; ++i) CHECK(pthread_create(&threads[i], NULL, pusher, NULL) == 0);
  for (i = 0; i < 2; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
  CHECK(saw_ok && saw_busy);

  for (i = 0; i < 2; ++i) tgpt_classifier_free(made[i]);
  tgpt_context_free(context);
  tgpt_flows_free(flows);
  tgpt_config_free(config);
  return failures != 0;
}
