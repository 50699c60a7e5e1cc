/* An engine that was named and whose runtime is not there: a status that says what to do, and no other engine. */
#include "check.h"

int main(int argc, char **argv) {
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_classifier *classifier = NULL;
  tgpt_generator *generator = NULL;
  tgpt_error e;
  if (argc != 3) return 2;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "onnx", &e));
  MUST(tgpt_config_set(config, "onnx.library", argv[2], &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  CHECK(tgpt_classifier_open(context, argv[1], &classifier, &e) == TGPT_E_NO_RUNTIME);
  CHECK(e.code == TGPT_E_NO_RUNTIME && strstr(e.msg, argv[2]) != NULL);
  CHECK(classifier == NULL);
  CHECK(tgpt_generator_open(context, argv[1], &generator, &e) == TGPT_E_NO_RUNTIME);
  CHECK(e.code == TGPT_E_NO_RUNTIME && strstr(e.msg, argv[2]) != NULL);
  CHECK(generator == NULL);
  /* The same config with another engine works. */
  MUST(tgpt_config_set(config, "engine", "native", &e));
  tgpt_context_free(context);
  MUST(tgpt_context_new(config, NULL, &context, &e));
  MUST(tgpt_classifier_open(context, argv[1], &classifier, &e));
  CHECK(strcmp(tgpt_classifier_engine(classifier), "native") == 0);
  tgpt_classifier_free(classifier);
  tgpt_context_free(context);
  tgpt_config_free(config);
  return failures != 0;
}
