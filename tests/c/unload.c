/* A plugin host: the library is loaded, used, and unloaded while its threads may still be there. */
#include "check.h"
#include <dlfcn.h>

#define FIND(name)                                            \
  do {                                                        \
    void *symbol = dlsym(library, #name);                     \
    CHECK(symbol != NULL);                                    \
    memcpy(&name##_, &symbol, sizeof symbol);                 \
  } while (0)

int main(int argc, char **argv) {
  static batch b;
  uint32_t labels[N_FLOWS];
  int round;
  if (argc != 3) return 2;
  fill(&b);
  for (round = 0; round < 3; ++round) {
    tgpt_status (*tgpt_config_new_)(tgpt_config **, tgpt_error *);
    tgpt_status (*tgpt_config_set_)(tgpt_config *, const char *, const char *, tgpt_error *);
    tgpt_status (*tgpt_context_new_)(const tgpt_config *, const tgpt_hooks *, tgpt_context **, tgpt_error *);
    tgpt_status (*tgpt_worker_new_)(const tgpt_context *, tgpt_worker **, tgpt_error *);
    tgpt_status (*tgpt_classifier_open_)(const tgpt_context *, const char *, tgpt_classifier **, tgpt_error *);
    tgpt_status (*tgpt_classify_)(const tgpt_classifier *, tgpt_worker *, const tgpt_packet *, const uint64_t *, size_t,
                                  uint32_t *, float *, tgpt_error *);
    tgpt_config *config = NULL;
    tgpt_context *context = NULL;
    tgpt_worker *worker = NULL;
    tgpt_classifier *classifier = NULL;
    void *library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
      printf("%s\n", dlerror());
      return 1;
    }
    FIND(tgpt_config_new);
    FIND(tgpt_config_set);
    FIND(tgpt_context_new);
    FIND(tgpt_worker_new);
    FIND(tgpt_classifier_open);
    FIND(tgpt_classify);
    if (failures) return 1;
    CHECK(tgpt_config_new_(&config, NULL) == TGPT_OK);
    CHECK(tgpt_config_set_(config, "engine", "native", NULL) == TGPT_OK);
    CHECK(tgpt_config_set_(config, "threads", "2", NULL) == TGPT_OK);
    CHECK(tgpt_context_new_(config, NULL, &context, NULL) == TGPT_OK);
    CHECK(tgpt_worker_new_(context, &worker, NULL) == TGPT_OK);
    CHECK(tgpt_classifier_open_(context, argv[1], &classifier, NULL) == TGPT_OK);
    CHECK(tgpt_classify_(classifier, worker, b.packets, b.offsets, N_FLOWS, labels, NULL, NULL) == TGPT_OK);
    /* Nothing is freed: the worst a plugin can do. */
    CHECK(dlclose(library) == 0);
  }
  return failures != 0;
}
