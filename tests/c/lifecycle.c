/* Handles freed in every order that a host may choose: what was made keeps what it needs. */
#include "check.h"

static batch b;

static void use(const tgpt_classifier *classifier, const tgpt_generator *generator, tgpt_worker *worker) {
  uint32_t labels[N_FLOWS];
  tgpt_packet packets[8];
  uint64_t offsets[3];
  tgpt_sampling sampling = TGPT_SAMPLING_INIT;
  tgpt_error e;
  sampling.max_packets = 4;
  if (classifier) MUST(tgpt_classify(classifier, worker, b.packets, b.offsets, N_FLOWS, labels, NULL, &e));
  if (generator) MUST(tgpt_generate(generator, worker, &sampling, 2, packets, 8, offsets, NULL, &e));
}

/* A packet, a flush, and the verdict. */
static void stream(tgpt_flows *flows) {
  tgpt_observation two[2];
  tgpt_verdict verdict;
  size_t n = 0;
  tgpt_error e;
  memset(two, 0, sizeof two);
  two[0].size = two[1].size = 100;
  MUST(tgpt_flows_push(flows, two, 2, &e));
  MUST(tgpt_flows_flush(flows, &e));
  MUST(tgpt_flows_poll(flows, 0, &verdict, 1, &n, &e));
  CHECK(n == 1 && verdict.is_final == 1);
}

static tgpt_context *context_of(const char *engine) {
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_error e;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", engine, &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  tgpt_config_free(config);
  return context;
}

int main(int argc, char **argv) {
  const char *bundle = argv[1];
  tgpt_error e;
  int order, round;
  if (argc != 2) return 2;
  fill(&b);
  /* Each bit pattern frees the parents at another moment. */
  for (order = 0; order < 8; ++order) {
    tgpt_context *context = context_of("native");
    tgpt_worker *worker = NULL;
    tgpt_classifier *classifier = NULL;
    tgpt_generator *generator = NULL;
    MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
    if (order & 1) {
      MUST(tgpt_worker_new(context, &worker, &e));
      MUST(tgpt_generator_open(context, bundle, &generator, &e));
      tgpt_context_free(context);
    } else {
      MUST(tgpt_generator_open(context, bundle, &generator, &e));
      MUST(tgpt_worker_new(context, &worker, &e));
      use(classifier, generator, worker);
      tgpt_context_free(context);
    }
    use(classifier, generator, worker);
    if (order & 2) {
      tgpt_classifier_free(classifier);
      use(NULL, generator, worker);
      tgpt_generator_free(generator);
    } else {
      tgpt_generator_free(generator);
      use(classifier, NULL, worker);
      tgpt_classifier_free(classifier);
    }
    if (order & 4) {
      /* The worker outlives every model it knew, and takes a new one. */
      context = context_of("native");
      MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
      use(classifier, NULL, worker);
      tgpt_worker_free(worker);
      tgpt_context_free(context);
      tgpt_classifier_free(classifier);
    } else {
      tgpt_worker_free(worker);
    }
  }
  /* A table outlives all that it was made from, also what was swapped in and never taken. */
  for (order = 0; order < 4; ++order) {
    tgpt_context *context = context_of("native");
    tgpt_classifier *classifier = NULL, *other = NULL;
    tgpt_flows *flows = NULL;
    MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
    MUST(tgpt_classifier_open(context, bundle, &other, &e));
    if (order & 1) tgpt_context_free(context);
    MUST(tgpt_flows_new(classifier, NULL, &flows, &e));
    if (order & 2) stream(flows);
    tgpt_classifier_free(classifier);
    if (!(order & 1)) tgpt_context_free(context);
    stream(flows);
    MUST(tgpt_flows_swap(flows, other, NULL, &e));
    tgpt_classifier_free(other);
    if (order & 2) stream(flows);
    tgpt_flows_free(flows);
  }
  /* Opened and closed again and again, with one worker: nothing grows (valgrind looks). */
  {
    tgpt_context *context = context_of("native");
    tgpt_worker *worker = NULL;
    MUST(tgpt_worker_new(context, &worker, &e));
    for (round = 0; round < 5; ++round) {
      tgpt_classifier *classifier = NULL;
      MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
      use(classifier, NULL, worker);
      tgpt_classifier_free(classifier);
    }
    tgpt_context_free(context);
    tgpt_worker_free(worker);
  }
  return failures != 0;
}
