/* The streaming table, every call as meant: prints its verdicts, floats as their bits; tests/c_flows.rs compares that with
 * what the Rust API gives. Also compiled as C++. */
#include "check.h"

static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* Packet i of flow f of check.h, at the time that its times since the packet before add up to. */
static tgpt_observation observe(const batch *b, int flow, int i) {
  const tgpt_packet *packets = b->packets + b->offsets[flow];
  const int from_client = packets[i].size > 0;
  tgpt_observation o;
  int j;
  memset(&o, 0, sizeof o);
  o.ts_ns = 1000000000u;
  for (j = 1; j <= i; ++j) o.ts_ns += (uint64_t)(packets[j].ipt_us * 1000.0f);
  memcpy(o.src, prefix, sizeof prefix);
  memcpy(o.dst, prefix, sizeof prefix);
  o.src[15] = (uint8_t)(from_client ? flow : 200);
  o.dst[15] = (uint8_t)(from_client ? 200 : flow);
  o.src_port = from_client ? 5000 : 443;
  o.dst_port = from_client ? 443 : 5000;
  o.size = (uint32_t)(from_client ? packets[i].size : -packets[i].size);
  o.protocol = 17;
  return o;
}

static void print_all(tgpt_flows *flows, uint64_t now_ns) {
  tgpt_verdict out[13];
  size_t n, i, j;
  tgpt_error e;
  do {
    MUST(tgpt_flows_poll(flows, now_ns, out, 13, &n, &e));
    for (i = 0; i < n; ++i) {
      const tgpt_verdict *v = &out[i];
      uint32_t bits;
      memcpy(&bits, &v->score, sizeof bits);
      for (j = 0; j < 16; ++j) printf("%02x", v->client[j]);
      for (j = 0; j < 16; ++j) printf("%02x", v->server[j]);
      printf(" %u %u %u %u", v->client_port, v->server_port, v->protocol, v->ip_version);
      printf(" %lu %lu %u", (unsigned long)v->start_ns, (unsigned long)v->last_ns, v->n_packets);
      printf(" %u %08x %u %u %u %u %u\n", v->label, bits, v->epoch, v->reason, v->is_final, v->n_read, v->zone);
    }
  } while (n == 13);
}

int main(int argc, char **argv) {
  static batch b;
  static tgpt_observation observations[N_FLOWS * MAX_PACKETS];
  char json[2048], small[8];
  const uint8_t frame[60] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0,
                             10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0, 0, 53};
  const uint8_t *frames[3];
  tgpt_frame_info infos[3];
  tgpt_config *config = NULL;
  tgpt_context *context = NULL;
  tgpt_classifier *classifier = NULL;
  tgpt_flows *flows = NULL;
  tgpt_error e;
  size_t n = 0, needed = 0, got = 99;
  uint32_t epoch = 0;
  int flow, i;
  if (argc != 2) return 2;
  fill(&b);
  MUST(tgpt_config_new(&config, &e));
  MUST(tgpt_config_set(config, "engine", "native", &e));
  MUST(tgpt_config_set(config, "flows.max_flows", "100", &e));
  MUST(tgpt_config_set(config, "flows.counts", "3,6,12", &e));
  MUST(tgpt_config_set(config, "flows.confidence", "0.9", &e));
  MUST(tgpt_config_set(config, "flows.min_packets", "1", &e));
  MUST(tgpt_context_new(config, NULL, &context, &e));
  MUST(tgpt_classifier_open(context, argv[1], &classifier, &e));
  MUST(tgpt_flows_new(classifier, config, &flows, &e));

  /* All flows side by side. */
  for (i = 0; i < MAX_PACKETS; ++i)
    for (flow = 0; flow < N_FLOWS; ++flow)
      if (b.offsets[flow] + (uint64_t)i < b.offsets[flow + 1]) observations[n++] = observe(&b, flow, i);
  MUST(tgpt_flows_push(flows, observations, n / 2, &e));
  CHECK(tgpt_flows_due(flows) > 0);
  print_all(flows, 1);
  MUST(tgpt_flows_push(flows, observations + n / 2, n - n / 2, &e));
  MUST(tgpt_flows_push(flows, NULL, 0, &e));
  MUST(tgpt_flows_poll(flows, 1, NULL, 0, &got, &e));
  CHECK(got == 0 && tgpt_flows_due(flows) > 0);
  print_all(flows, 1);

  /* The same classifier again: flows go on with it. */
  MUST(tgpt_flows_swap(flows, classifier, &epoch, &e));
  MUST(tgpt_flows_swap(flows, classifier, NULL, &e));
  CHECK(epoch == 1);
  tgpt_classifier_free(classifier);
  tgpt_context_free(context);

  for (i = 0; i < 3; ++i) {
    frames[i] = i == 1 ? NULL : frame;
    infos[i].ts_ns = 1000000000u + (uint64_t)i;
    infos[i].captured = i == 1 ? 0 : sizeof frame;
    infos[i].wire_len = sizeof frame;
  }
  MUST(tgpt_flows_push_frames(flows, 1, frames, infos, 3, &e));
  MUST(tgpt_flows_push_frames(flows, 1, NULL, NULL, 0, &e));
  MUST(tgpt_flows_flush(flows, &e));
  print_all(flows, 1);

  memset(small, 'x', sizeof small);
  CHECK(tgpt_flows_stats(flows, small, sizeof small, &needed, &e) == TGPT_E_NOSPACE && small[0] == 'x');
  CHECK(needed > sizeof small && needed < sizeof json);
  CHECK(tgpt_flows_stats(flows, json, needed - 1, NULL, &e) == TGPT_E_NOSPACE);
  MUST(tgpt_flows_stats(flows, json, needed, NULL, &e));
  CHECK(strlen(json) + 1 == needed);
  printf("%s\n", json);
  tgpt_flows_free(flows);
  tgpt_config_free(config);
  return failures != 0;
}
