/* Two contexts in one process know nothing of each other: settings, log, life. What is made from them may be mixed. */
#include "check.h"

static batch b;

static void count(void *user, int32_t level, const char *msg, size_t len) {
  CHECK(level == TGPT_LOG_INFO && strlen(msg) == len);
  ++*(int *)user;
}

static tgpt_context *context_of(int *lines, const char *threads) {
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_hooks hooks;
  tgpt_error e;
  memset(&hooks, 0, sizeof hooks);
  hooks.type_size = sizeof hooks;
  hooks.user = lines;
  hooks.log = count;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_config_set(config, "threads", threads, &e));
  MUST(tgpt_context_new(config, &hooks, &context, &e));
  /* Copied: a later change is not theirs. */
  MUST(tgpt_config_set(config, "engine", "onnx", &e));
  tgpt_config_free(config);
  return context;
}

int main(int argc, char **argv) {
  int lines[2] = {0, 0}, i, j;
  uint32_t labels[4][N_FLOWS];
  tgpt_context *contexts[2];
  tgpt_classifier *classifiers[2] = {NULL, NULL};
  tgpt_worker *workers[2] = {NULL, NULL};
  tgpt_error e;
  if (argc != 2) return 2;
  fill(&b);
  contexts[0] = context_of(&lines[0], "1");
  contexts[1] = context_of(&lines[1], "2");
  MUST(tgpt_classifier_open(contexts[0], argv[1], &classifiers[0], &e));
  CHECK(lines[0] == 1 && lines[1] == 0);
  MUST(tgpt_classifier_open(contexts[1], argv[1], &classifiers[1], &e));
  CHECK(lines[0] == 1 && lines[1] == 1);
  for (i = 0; i < 2; ++i) {
    CHECK(strcmp(tgpt_classifier_engine(classifiers[i]), "native") == 0);
    MUST(tgpt_worker_new(contexts[i], &workers[i], &e));
  }
  /* The first context goes; the other, and what is left of the first, work on. */
  tgpt_context_free(contexts[0]);
  for (i = 0; i < 2; ++i)
    for (j = 0; j < 2; ++j)
      MUST(tgpt_classify(classifiers[i], workers[j], b.packets, b.offsets, N_FLOWS, labels[2 * i + j], NULL, &e));
  for (i = 1; i < 4; ++i) CHECK(memcmp(labels[0], labels[i], sizeof labels[0]) == 0);
  tgpt_classifier_free(classifiers[0]);
  tgpt_worker_free(workers[0]);
  MUST(tgpt_classify(classifiers[1], workers[1], b.packets, b.offsets, N_FLOWS, labels[1], NULL, &e));
  CHECK(memcmp(labels[0], labels[1], sizeof labels[0]) == 0);
  tgpt_worker_free(workers[1]);
  tgpt_context_free(contexts[1]);
  tgpt_classifier_free(classifiers[1]);
  return failures != 0;
}
