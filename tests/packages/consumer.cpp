// Prints the label of every flow of a capture: consumer BUNDLE CAPTURE.
#include <cstdio>
#include <trafficgpt.h>
#include <vector>
#if __has_include(<trafficgpt.hpp>)
#include <trafficgpt.hpp>
#endif

#define TRY(call)                                                      \
  do {                                                                 \
    if ((call) != TGPT_OK) return std::fprintf(stderr, "%s\n", e.msg), 1; \
  } while (0)

int main(int argc, char **argv) {
  tgpt_error e;
  tgpt_context *context;
  tgpt_classifier *classifier;
  tgpt_worker *worker;
  tgpt_capture *capture;
  const tgpt_packet *packets;
  const uint64_t *offsets;
  if (argc != 3) return 2;
  TRY(tgpt_context_new(nullptr, nullptr, &context, &e));
  TRY(tgpt_classifier_open(context, argv[1], &classifier, &e));
  TRY(tgpt_worker_new(context, &worker, &e));
  TRY(tgpt_capture_open(argv[2], nullptr, &capture, &e));
  TRY(tgpt_capture_packets(capture, &packets, &offsets, &e));
  std::vector<uint32_t> labels(tgpt_capture_n_flows(capture));
  TRY(tgpt_classify(classifier, worker, packets, offsets, labels.size(), labels.data(), nullptr, &e));
  for (uint32_t label : labels) {
    std::puts(label == TGPT_UNKNOWN ? "unknown" : tgpt_classifier_label(classifier, label));
  }
  tgpt_capture_free(capture);
  tgpt_worker_free(worker);
  tgpt_classifier_free(classifier);
  tgpt_context_free(context);
  return 0;
}
