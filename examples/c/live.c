/* Tells what flows are while their packets come: from a network interface, or from a capture file.
 *
 *   cc -std=c99 live.c $(pkg-config --cflags --libs trafficgpt) -lpcap -o live
 *   ./live model.tgpt capture.pcap
 *   sudo ./live -i eth0 model.tgpt
 */
#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <pcap/pcap.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <trafficgpt.h>

/* Exit codes, as of the trafficgpt command: 2 for what the user can mend. */
enum { DONE = 0, FAILED = 1, USAGE = 2 };

/* Frames are pushed in bursts; of each, so many bytes hold all headers that are looked at. */
enum { BURST = 64, HEADERS = 512, VERDICTS = 64, SETTINGS = 16 };

static const char usage[] =
    "usage: live [-i INTERFACE] [--all] [--packets N] [--set KEY=VALUE]... BUNDLE [CAPTURE]\n"
    "\n"
    "Prints client, server, label, probability and number of packets of flows as the classifier in BUNDLE makes up\n"
    "its mind about them, from INTERFACE or from CAPTURE (pcap or pcapng). Ctrl-C ends all flows and stops.\n"
    "\n"
    "  -i INTERFACE     listen there; the user must be allowed to\n"
    "  --all            print a flow's earlier verdicts too, not only its final one\n"
    "  --packets N      stop after N packets\n"
    "  --set KEY=VALUE  any setting of the library, such as flows.counts=8,32 or engine=native\n";

typedef struct {
  const char *interface, *bundle, *capture, *settings[SETTINGS];
  int all, n_settings;
  unsigned long packets;
} options;

/* What is open, so that one place closes it; and the burst that is being filled. */
typedef struct {
  const options *options;
  tgpt_config *config;
  tgpt_context *context;
  tgpt_classifier *classifier;
  tgpt_flows *flows;
  pcap_t *pcap;
  uint32_t link_type;
  uint8_t bytes[BURST][HEADERS];
  const uint8_t *frames[BURST];
  tgpt_frame_info infos[BURST];
  size_t n;
  unsigned long seen;
} state;

static pcap_t *interrupted;

static void stop(int signal_number) {
  (void)signal_number;
  pcap_breakloop(interrupted);
}

static int fail(const char *what, tgpt_status status, const tgpt_error *error) {
  fprintf(stderr, "live: %s: %s (%s, status %d)\n", what, error->msg, tgpt_status_str(status), (int)status);
  return status == TGPT_E_RUNTIME || status == TGPT_E_PANIC ? FAILED : USAGE;
}

#define TRY(what, call)                                         \
  do {                                                          \
    const tgpt_status status = (call);                          \
    if (status != TGPT_OK) return fail((what), status, &error); \
  } while (0)

static int wrong(const char *what, const char *argument) {
  fprintf(stderr, "live: %s%s\n%s", argument, what, usage);
  return USAGE + 1;
}

/* 0, or the exit code plus one. */
static int parse(int argc, char **argv, options *o) {
  int i;
  for (i = 1; i < argc; ++i) {
    const char *argument = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
      fputs(usage, stdout);
      return DONE + 1;
    } else if (strcmp(argument, "--all") == 0) {
      o->all = 1;
    } else if (argument[0] == '-' && value == NULL) {
      return wrong(" needs a value", argument);
    } else if (strcmp(argument, "-i") == 0) {
      o->interface = value, ++i;
    } else if (strcmp(argument, "--packets") == 0) {
      char *end;
      o->packets = strtoul(value, &end, 10), ++i;
      if (*value < '1' || *value > '9' || *end != '\0') return wrong(" must be a number above 0", argument);
    } else if (strcmp(argument, "--set") == 0) {
      if (strchr(value, '=') == NULL || o->n_settings == SETTINGS) return wrong(" takes KEY=VALUE, 16 times", argument);
      o->settings[o->n_settings++] = value, ++i;
    } else if (argument[0] == '-') {
      return wrong(" is no option", argument);
    } else if (o->bundle == NULL) {
      o->bundle = argument;
    } else if (o->capture == NULL) {
      o->capture = argument;
    } else {
      return wrong(" is one argument too many", argument);
    }
  }
  if (o->bundle == NULL) return wrong("a bundle is needed", "");
  if ((o->interface == NULL) == (o->capture == NULL)) return wrong("an interface or a capture is needed, not both", "");
  return 0;
}

/* "10.0.0.1:53" or "[2001:db8::1]:443". */
static void print_end(char *out, size_t size, const uint8_t address[16], unsigned port, int ip_version) {
  char text[INET6_ADDRSTRLEN] = "?";
  inet_ntop(ip_version == 4 ? AF_INET : AF_INET6, ip_version == 4 ? address + 12 : address, text, sizeof text);
  snprintf(out, size, ip_version == 4 ? "%s:%u" : "[%s]:%u", text, port);
}

static void print_verdict(const state *s, const tgpt_verdict *v) {
  static const char *const reasons[] = {"", "count", "confident", "closed", "idle", "active", "evicted", "stopped"};
  char client[64], server[64], protocol[16], both[160];
  const char *label = tgpt_classifier_label(s->classifier, v->label);
  print_end(client, sizeof client, v->client, v->client_port, v->ip_version);
  print_end(server, sizeof server, v->server, v->server_port, v->ip_version);
  snprintf(protocol, sizeof protocol, v->protocol == 6 ? "tcp" : v->protocol == 17 ? "udp" : "ip-%u", v->protocol);
  snprintf(both, sizeof both, "%s -> %s/%s", client, server, protocol);
  printf("%-52s  %-14s  %11.3f  %7lu  %-9s %s\n", both, label ? label : "unknown", (double)v->score,
         (unsigned long)v->n_packets, v->reason < sizeof reasons / sizeof *reasons ? reasons[v->reason] : "other",
         v->is_final ? "final" : "so far");
}

/* Prints what is due at `now_ns`, or by the packets' own clock where that is 0. */
static int poll_verdicts(state *s, uint64_t now_ns) {
  tgpt_verdict verdicts[VERDICTS];
  tgpt_error error;
  size_t n, i;
  do {
    TRY("poll", tgpt_flows_poll(s->flows, now_ns, verdicts, VERDICTS, &n, &error));
    for (i = 0; i < n; ++i)
      if (verdicts[i].is_final || s->options->all) print_verdict(s, &verdicts[i]);
  } while (n == VERDICTS);
  fflush(stdout);
  return DONE;
}

static int push_burst(state *s) {
  tgpt_error error;
  TRY("push", tgpt_flows_push_frames(s->flows, s->link_type, s->frames, s->infos, s->n, &error));
  s->n = 0;
  return DONE;
}

/* libpcap keeps a frame's bytes only during this call. */
static void keep_frame(u_char *user, const struct pcap_pkthdr *header, const u_char *bytes) {
  state *s = (state *)(void *)user;
  const size_t captured = header->caplen < HEADERS ? header->caplen : HEADERS;
  memcpy(s->bytes[s->n], bytes, captured);
  s->frames[s->n] = s->bytes[s->n];
  s->infos[s->n].ts_ns = (uint64_t)header->ts.tv_sec * 1000000000u + (uint64_t)header->ts.tv_usec;
  s->infos[s->n].captured = (uint32_t)captured;
  s->infos[s->n].wire_len = header->len;
  ++s->n;
  ++s->seen;
}

/* Opens the interface or the file, with times in nanoseconds. */
static int open_source(state *s) {
  char text[PCAP_ERRBUF_SIZE] = "";
  const options *o = s->options;
  if (o->capture != NULL) {
    s->pcap = pcap_open_offline_with_tstamp_precision(o->capture, PCAP_TSTAMP_PRECISION_NANO, text);
  } else {
    s->pcap = pcap_create(o->interface, text);
    if (s->pcap != NULL) {
      const int nano = pcap_set_tstamp_precision(s->pcap, PCAP_TSTAMP_PRECISION_NANO);
      pcap_set_snaplen(s->pcap, HEADERS);
      pcap_set_promisc(s->pcap, 1);
      pcap_set_timeout(s->pcap, 50);
      if (nano != 0 || pcap_activate(s->pcap) < 0) {
        snprintf(text, sizeof text, "%s", nano != 0 ? "it gives no times in nanoseconds" : pcap_geterr(s->pcap));
        pcap_close(s->pcap);
        s->pcap = NULL;
      }
    }
  }
  if (s->pcap == NULL) {
    fprintf(stderr, "live: %s: %s\n", o->capture != NULL ? o->capture : o->interface, text);
    return USAGE;
  }
  /* libpcap's numbers are the registry's, but for bare IP. */
  s->link_type = (uint32_t)pcap_datalink(s->pcap);
  if (s->link_type == DLT_RAW) s->link_type = 101;
  return DONE;
}

/* The time on the packets' clock when none comes: that of the system, less what may still be under way. */
static uint64_t quiet_now(const state *s) {
  struct timespec now;
  if (s->options->interface == NULL || clock_gettime(CLOCK_REALTIME, &now) != 0) return 0;
  return ((uint64_t)now.tv_sec - 1) * 1000000000u + (uint64_t)now.tv_nsec;
}

static int run(state *s) {
  const options *o = s->options;
  char json[2048];
  tgpt_error error;
  int code, i, got;

  TRY("config", tgpt_config_new(&s->config, &error));
  for (i = 0; i < o->n_settings; ++i) {
    char key[64];
    const char *value = strchr(o->settings[i], '=');
    snprintf(key, sizeof key, "%.*s", (int)(value - o->settings[i]), o->settings[i]);
    TRY("--set", tgpt_config_set(s->config, key, value + 1, &error));
  }
  TRY("context", tgpt_context_new(s->config, NULL, &s->context, &error));
  TRY("bundle", tgpt_classifier_open(s->context, o->bundle, &s->classifier, &error));
  TRY("flows", tgpt_flows_new(s->classifier, s->config, &s->flows, &error));
  code = open_source(s);
  if (code != DONE) return code;
  interrupted = s->pcap;
  signal(SIGINT, stop);
  signal(SIGTERM, stop);

  printf("%-52s  %-14s  %11s  %7s  %s\n", "flow (client -> server)", "label", "probability", "packets", "verdict");
  fflush(stdout);
  do {
    const unsigned long left = o->packets - s->seen;
    got = pcap_dispatch(s->pcap, left < BURST ? (int)left : BURST, keep_frame, (u_char *)s);
    code = push_burst(s);
    /* The network runs here, between two bursts: several flows at a time cost less than as many single ones. */
    if (code == DONE && (got == 0 || tgpt_flows_due(s->flows) >= VERDICTS / 4)) code = poll_verdicts(s, quiet_now(s));
  } while (code == DONE && s->seen < o->packets && (got > 0 || (got == 0 && o->interface != NULL)));
  if (code != DONE) return code;

  TRY("flush", tgpt_flows_flush(s->flows, &error));
  code = poll_verdicts(s, 0);
  if (code != DONE) return code;
  TRY("stats", tgpt_flows_stats(s->flows, json, sizeof json, NULL, &error));
  printf("%s\n", json);
  if (got == PCAP_ERROR) {
    fprintf(stderr, "live: %s\n", pcap_geterr(s->pcap));
    return o->interface != NULL ? FAILED : DONE;
  }
  return DONE;
}

int main(int argc, char **argv) {
  options o = {NULL, NULL, NULL, {NULL}, 0, 0, (unsigned long)-1};
  static state s;
  int code = parse(argc, argv, &o);
  if (code != 0) return code - 1;
  if (tgpt_abi() != TGPT_ABI) {
    fprintf(stderr, "live: the library has ABI %u, this program was compiled for %u\n", tgpt_abi(), TGPT_ABI);
    return FAILED;
  }
  s.options = &o;
  code = run(&s);
  if (s.pcap != NULL) pcap_close(s.pcap);
  tgpt_flows_free(s.flows);
  tgpt_classifier_free(s.classifier);
  tgpt_context_free(s.context);
  tgpt_config_free(s.config);
  return code;
}
