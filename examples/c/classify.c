/* Tells what every flow of a capture is.
 *
 *   cc -std=c99 classify.c $(pkg-config --cflags --libs trafficgpt) -o classify
 *   ./classify model.tgpt capture.pcap
 */
#define _POSIX_C_SOURCE 200112L
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trafficgpt.h>

/* Exit codes, as of the trafficgpt command: 2 for what the user can mend. */
enum { DONE = 0, FAILED = 1, USAGE = 2 };

static const char usage[] =
    "usage: classify [--engine auto|native|onnx|cuda] [--onnx-library FILE] [--limit N] BUNDLE CAPTURE\n"
    "\n"
    "Prints client, server, label, probability and number of packets of every flow in CAPTURE\n"
    "(pcap or pcapng, plain or gzip), as the classifier in BUNDLE sees them.\n"
    "\n"
    "  --engine NAME        who runs the network (default: auto)\n"
    "  --onnx-library FILE  where ONNX Runtime's shared library is (default: searched for)\n"
    "  --limit N            print the first N flows only; all are counted (default: all)\n";

typedef struct {
  const char *engine, *onnx_library, *bundle, *capture;
  size_t limit;
} options;

static int fail(const char *what, tgpt_status status, const tgpt_error *error) {
  fprintf(stderr, "classify: %s: %s (%s, status %d)\n", what, error->msg, tgpt_status_str(status), (int)status);
  return status == TGPT_E_RUNTIME || status == TGPT_E_PANIC ? FAILED : USAGE;
}

/* 0, or the exit code plus one. */
static int parse(int argc, char **argv, options *o) {
  int i;
  for (i = 1; i < argc; ++i) {
    const char *argument = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      fputs(usage, stdout);
      return DONE + 1;
    } else if (strncmp(argument, "--", 2) == 0 && value == NULL) {
      fprintf(stderr, "classify: %s needs a value\n%s", argument, usage);
      return USAGE + 1;
    } else if (strcmp(argument, "--engine") == 0) {
      o->engine = value, ++i;
    } else if (strcmp(argument, "--onnx-library") == 0) {
      o->onnx_library = value, ++i;
    } else if (strcmp(argument, "--limit") == 0) {
      char *end;
      o->limit = (size_t)strtoul(value, &end, 10), ++i;
      if (*value < '0' || *value > '9' || *end != '\0') {
        fprintf(stderr, "classify: --limit is \"%s\"; it must be a number\n", value);
        return USAGE + 1;
      }
    } else if (argument[0] == '-') {
      fprintf(stderr, "classify: there is no option %s\n%s", argument, usage);
      return USAGE + 1;
    } else if (o->bundle == NULL) {
      o->bundle = argument;
    } else if (o->capture == NULL) {
      o->capture = argument;
    } else {
      fprintf(stderr, "classify: %s is one argument too many\n%s", argument, usage);
      return USAGE + 1;
    }
  }
  if (o->capture == NULL) {
    fprintf(stderr, "classify: a bundle and a capture are needed\n%s", usage);
    return USAGE + 1;
  }
  return 0;
}

/* "10.0.0.1:53" or "[2001:db8::1]:443". */
static void print_end(char *out, size_t size, const uint8_t address[16], unsigned port, int ip_version) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (ip_version == 4) {
    inet_ntop(AF_INET, address + 12, text, sizeof text);
    snprintf(out, size, "%s:%u", text, port);
  } else {
    inet_ntop(AF_INET6, address, text, sizeof text);
    snprintf(out, size, "[%s]:%u", text, port);
  }
}

static void print_flow(const tgpt_flow_info *flow, const char *label, float probability) {
  char client[64], server[64], protocol[16], both[160];
  print_end(client, sizeof client, flow->client, flow->client_port, flow->ip_version);
  print_end(server, sizeof server, flow->server, flow->server_port, flow->ip_version);
  switch (flow->protocol) {
    case 6: strcpy(protocol, "tcp"); break;
    case 17: strcpy(protocol, "udp"); break;
    default: snprintf(protocol, sizeof protocol, "ip-%u", flow->protocol);
  }
  snprintf(both, sizeof both, "%s -> %s/%s", client, server, protocol);
  printf("%-52s  %-14s  %11.3f  %7lu\n", both, label, (double)probability, (unsigned long)flow->n_packets);
}

/* What is open, so that one place closes it. */
typedef struct {
  tgpt_config *config;
  tgpt_context *context;
  tgpt_worker *worker;
  tgpt_classifier *classifier;
  tgpt_capture *capture;
  uint32_t *labels;
  float *scores;
} state;

static int classify(const options *o, state *s) {
  const tgpt_packet *packets;
  const uint64_t *offsets;
  tgpt_error error;
  tgpt_status status;
  uint32_t n_labels;
  size_t n_flows, i, unknown = 0;

#define TRY(what, call)                                              \
  do {                                                               \
    status = (call);                                                 \
    if (status != TGPT_OK) return fail((what), status, &error);      \
  } while (0)

  TRY("config", tgpt_config_new(&s->config, &error));
  TRY("--engine", tgpt_config_set(s->config, "engine", o->engine, &error));
  TRY("--onnx-library", tgpt_config_set(s->config, "onnx.library", o->onnx_library, &error));
  TRY("context", tgpt_context_new(s->config, NULL, &s->context, &error));
  TRY("bundle", tgpt_classifier_open(s->context, o->bundle, &s->classifier, &error));
  TRY("worker", tgpt_worker_new(s->context, &s->worker, &error));
  TRY("capture", tgpt_capture_open(o->capture, s->config, &s->capture, &error));
  TRY("capture", tgpt_capture_packets(s->capture, &packets, &offsets, &error));

  n_flows = tgpt_capture_n_flows(s->capture);
  n_labels = tgpt_classifier_n_labels(s->classifier);
  s->labels = malloc((n_flows + 1) * sizeof *s->labels);
  s->scores = calloc(n_flows + 1, n_labels * sizeof *s->scores);
  if (s->labels == NULL || s->scores == NULL) {
    fprintf(stderr, "classify: no memory for the labels of %lu flows\n", (unsigned long)n_flows);
    return FAILED;
  }
  /* All flows in one call: the network is much faster on many than on one. */
  TRY("classify", tgpt_classify(s->classifier, s->worker, packets, offsets, n_flows, s->labels, s->scores, &error));

  printf("%-52s  %-14s  %11s  %7s\n", "flow (client -> server)", "label", "probability", "packets");
  for (i = 0; i < n_flows; ++i) {
    const float *scores = s->scores + i * n_labels;
    const uint32_t label = s->labels[i];
    tgpt_flow_info flow;
    uint32_t best = 0, j;
    unknown += label == TGPT_UNKNOWN;
    if (i >= o->limit) continue;
    for (j = 1; j < n_labels; ++j) best = scores[j] > scores[best] ? j : best;
    TRY("capture", tgpt_capture_flow(s->capture, i, &flow, &error));
    print_flow(&flow, label == TGPT_UNKNOWN ? "unknown" : tgpt_classifier_label(s->classifier, label), scores[best]);
  }
  printf("%lu flows, %lu of them unknown; engine %s\n", (unsigned long)n_flows, (unsigned long)unknown,
         tgpt_classifier_engine(s->classifier));
  if (tgpt_capture_warning(s->capture)) fprintf(stderr, "classify: %s\n", tgpt_capture_warning(s->capture));
  return DONE;
}

int main(int argc, char **argv) {
  options o = {"auto", "", NULL, NULL, (size_t)-1};
  state s = {NULL, NULL, NULL, NULL, NULL, NULL, NULL};
  int code = parse(argc, argv, &o);
  if (code != 0) return code - 1;
  if (tgpt_abi() != TGPT_ABI) {
    fprintf(stderr, "classify: the library has ABI %u, this program was compiled for %u\n", tgpt_abi(), TGPT_ABI);
    return FAILED;
  }
  code = classify(&o, &s);
  free(s.labels);
  free(s.scores);
  tgpt_capture_free(s.capture);
  tgpt_worker_free(s.worker);
  tgpt_classifier_free(s.classifier);
  tgpt_context_free(s.context);
  tgpt_config_free(s.config);
  return code;
}
