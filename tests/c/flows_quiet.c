/* Pushes between two marks that a trace of system calls can see: getppid, which nothing else calls. */
#define _POSIX_C_SOURCE 200112L
#include "check.h"
#include <unistd.h>

enum { BURST = 64, BURSTS = 3000 };

int main(int argc, char **argv) {
  static tgpt_observation burst[BURST];
  static uint8_t frame[60] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0,
                              10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0, 0, 53};
  const uint8_t *frames[1];
  tgpt_frame_info info = {1000000000u, sizeof frame, sizeof frame};
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_classifier *classifier = NULL;
  tgpt_flows *flows = NULL;
  tgpt_error e;
  unsigned i, j;
  if (argc != 2) return 2;
  frames[0] = frame;
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  MUST(tgpt_classifier_open(context, argv[1], &classifier, &e));
  MUST(tgpt_flows_new(classifier, config, &flows, &e));
  (void)getppid();
  for (i = 0; i < BURSTS; ++i) {
    for (j = 0; j < BURST; ++j) {
      const unsigned flow = (i * 7919 + j * 104729) % 90000;
      memcpy(burst[j].src, &flow, sizeof flow);
      burst[j].dst[0] = 1;
      burst[j].ts_ns = 1000000000u + (uint64_t)i * 1000000u;
      burst[j].size = 100;
    }
    if (tgpt_flows_push(flows, burst, BURST, &e) != TGPT_OK) return 1;
    if (tgpt_flows_push_frames(flows, 1, frames, &info, 1, &e) != TGPT_OK) return 1;
  }
  (void)getppid();
  tgpt_flows_free(flows);
  tgpt_classifier_free(classifier);
  tgpt_context_free(context);
  tgpt_config_free(config);
  return 0;
}
