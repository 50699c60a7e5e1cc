/* A host that forks. Before a model is open, parent and children are as good as new; with the native engine and one thread
 * per worker there is no thread of ours that a fork could lose, so it may come later too. */
#define _POSIX_C_SOURCE 200112L
#include "check.h"
#include <sys/wait.h>
#include <unistd.h>

static batch b;

static void labels_of(const tgpt_classifier *classifier, tgpt_worker *worker, uint32_t *labels) {
  tgpt_error e;
  MUST(tgpt_classify(classifier, worker, b.packets, b.offsets, N_FLOWS, labels, NULL, &e));
}

/* What a child finds, from opening to freeing. */
static int whole_way(const tgpt_context *context, const char *bundle, const uint32_t *expected) {
  uint32_t labels[N_FLOWS];
  tgpt_classifier *classifier = NULL;
  tgpt_worker *worker = NULL;
  tgpt_error e;
  MUST(tgpt_classifier_open(context, bundle, &classifier, &e));
  MUST(tgpt_worker_new(context, &worker, &e));
  labels_of(classifier, worker, labels);
  CHECK(memcmp(labels, expected, sizeof labels) == 0);
  tgpt_worker_free(worker);
  tgpt_classifier_free(classifier);
  return failures;
}

/* That the child ended well. What it printed comes out with its own exit. */
static void join(pid_t child) {
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv) {
  uint32_t expected[N_FLOWS], labels[N_FLOWS];
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_classifier *classifier = NULL;
  tgpt_worker *worker = NULL;
  tgpt_error e;
  pid_t child;
  int i, pipes[2];
  if (argc != 2) return 2;
  fill(&b);
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));

  /* Before: this child waits until the parent has its own model open and in use. */
  CHECK(pipe(pipes) == 0);
  child = fork();
  if (child == 0) {
    const ssize_t got = read(pipes[0], expected, sizeof expected);
    CHECK(got == (ssize_t)sizeof expected);
    i = whole_way(context, argv[1], expected);
    tgpt_context_free(context);
    tgpt_config_free(config);
    exit(i != 0);
  }
  MUST(tgpt_classifier_open(context, argv[1], &classifier, &e));
  MUST(tgpt_worker_new(context, &worker, &e));
  labels_of(classifier, worker, expected);
  CHECK(write(pipes[1], expected, sizeof expected) == (ssize_t)sizeof expected);
  join(child);

  /* After: a child uses what the parent opened, opens its own, and frees all of it. */
  for (i = 0; i < 2; ++i) {
    child = fork();
    if (child == 0) {
      labels_of(classifier, worker, labels);
      CHECK(memcmp(labels, expected, sizeof labels) == 0);
      if (i == 1) {
        tgpt_classifier_free(classifier);
        tgpt_worker_free(worker);
      }
      exit(whole_way(context, argv[1], expected) != 0);
    }
    labels_of(classifier, worker, labels);
    CHECK(memcmp(labels, expected, sizeof labels) == 0);
    join(child);
  }
  /* A child that only goes away. */
  child = fork();
  if (child == 0) _exit(0);
  join(child);
  labels_of(classifier, worker, labels);
  CHECK(memcmp(labels, expected, sizeof labels) == 0);
  tgpt_worker_free(worker);
  tgpt_classifier_free(classifier);
  tgpt_context_free(context);
  tgpt_config_free(config);
  return failures != 0;
}
