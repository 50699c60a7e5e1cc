/* A packet broker: takes frames from a DPDK port, tells what their flows are, and sends each flow out of the port that
 * its label has.
 *
 *   c++ -std=c++17 -O2 broker.cpp $(pkg-config --cflags --libs trafficgpt libdpdk) -o broker
 *   sudo ./broker -l 0-3 -- --default 1 model.tgpt TLS=2 QUIC=2 DNS=3
 *
 * One worker runs on each lcore, with a receive queue, a transmit queue per port, a streaming table of flows and a table
 * of steering of its own: nothing is shared but the model, which nobody writes. A frame is forwarded before the network
 * runs, and waits for it only if it comes in the meantime. */

#include <arpa/inet.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mbuf_dyn.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <map>
#include <string>
#include <trafficgpt.hpp>
#include <vector>

#include "options.hpp"
#include "steering.hpp"

namespace tgpt = trafficgpt;

namespace {

constexpr std::uint16_t burst_size = 32, descriptors = 1024;
constexpr std::uint32_t ethernet = 1;
constexpr std::size_t verdicts_per_poll = 32;

std::atomic<bool> stop{false};

/* The port of every label of the classifier. */
std::vector<std::uint16_t> ports_of_labels(const options &o, const tgpt::classifier &classifier) {
  std::vector<std::uint16_t> ports(classifier.n_labels(), o.otherwise);
  std::string labels;
  std::map<std::string, std::uint16_t> left = o.ports;
  for (std::uint32_t label = 0; label < classifier.n_labels(); ++label) {
    const std::string name(classifier.label(label));
    labels += (label > 0 ? ", " : "") + name;
    if (const auto found = left.find(name); found != left.end()) {
      ports[label] = found->second;
      left.erase(found);
    }
  }
  if (!left.empty()) throw wrong(left.begin()->first + " is no label of " + o.bundle + "; there are " + labels);
  return ports;
}

void must(int status, const std::string &what) {
  if (status < 0) throw std::runtime_error(what + ": " + rte_strerror(-status));
}

/* Starts a port with `n_rx` receive queues and `n_tx` transmit queues. */
void start(std::uint16_t id, std::uint16_t n_rx, std::uint16_t n_tx, bool timestamps, rte_mempool *pool) {
  const std::string name = "port " + std::to_string(id);
  rte_eth_dev_info info{};
  must(rte_eth_dev_info_get(id, &info), name);
  if (n_rx > info.max_rx_queues || n_tx > info.max_tx_queues) {
    throw wrong(name + " has " + std::to_string(info.max_rx_queues) + " receive and " +
                std::to_string(info.max_tx_queues) + " transmit queues, and each worker needs one of its own: run on " +
                "fewer lcores (-l), or give net_pcap as many rx_pcap and tx_pcap");
  }
  rte_eth_conf conf{};
  /* Both directions of a flow must meet in one queue: this key gives the same hash with the ends swapped. */
  std::array<std::uint8_t, 64> key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = i % 2 == 0 ? 0x6d : 0x5a;
  const std::uint64_t rss = (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP | RTE_ETH_RSS_SCTP);
  if (n_rx > 1 && (info.flow_type_rss_offloads & rss) != 0) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_key = key.data();
    conf.rx_adv_conf.rss_conf.rss_key_len = std::min<std::uint8_t>(info.hash_key_size, key.size());
    conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & rss;
  } else if (n_rx > 1) {
    std::fprintf(stderr, "broker: %s has no RSS: both directions of a flow must come in by one queue\n", name.c_str());
  }
  if (timestamps) conf.rxmode.offloads |= info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TIMESTAMP;
  must(rte_eth_dev_configure(id, n_rx, n_tx, &conf), name);
  std::uint16_t rx = descriptors, tx = descriptors;
  must(rte_eth_dev_adjust_nb_rx_tx_desc(id, &rx, &tx), name);
  const auto socket = static_cast<unsigned>(rte_eth_dev_socket_id(id));
  for (std::uint16_t queue = 0; queue < n_rx; ++queue) {
    must(rte_eth_rx_queue_setup(id, queue, rx, socket, nullptr, pool), name);
  }
  for (std::uint16_t queue = 0; queue < n_tx; ++queue) {
    must(rte_eth_tx_queue_setup(id, queue, tx, socket, nullptr), name);
  }
  must(rte_eth_dev_start(id), name);
  /* A tap sees frames that are for others. Not every device needs to be told, or can be. */
  rte_eth_promiscuous_enable(id);
}

std::uint64_t to_ns(std::uint64_t ticks, std::uint64_t per_second) {
  return ticks / per_second * 1'000'000'000 + ticks % per_second * 1'000'000'000 / per_second;
}

/* What one lcore does, and counts. */
class worker {
 public:
  worker(const options &o, const tgpt::classifier &classifier, const tgpt::config &config,
         const std::vector<std::uint16_t> &ports, std::uint16_t queue)
      : options_(o),
        classifier_(classifier),
        ports_(ports),
        queue_(queue),
        flows_(tgpt::flows::make(classifier, config).value()),
        steering_(o.steered, static_cast<std::uint64_t>(o.idle_timeout_s * 1e9)) {
    if (o.ticks_per_second > 0) {
      must(rte_mbuf_dyn_rx_timestamp_register(&timestamp_at_, &timestamp_flag_), "timestamps");
    }
  }

  void run() {
    const std::uint64_t hz = rte_get_tsc_hz();
    std::uint64_t last_frame = rte_get_tsc_cycles(), last_poll = last_frame;
    while (!stop.load(std::memory_order_relaxed)) {
      const std::uint64_t now = rte_get_tsc_cycles();
      rte_mbuf *burst[burst_size];
      const std::uint16_t n = rte_eth_rx_burst(options_.in, queue_, burst, burst_size);
      if (n > 0) {
        last_frame = now;
        forward(burst, n, to_ns(now, hz));
      } else if (options_.until_quiet_s > 0 && static_cast<double>(now - last_frame) >
                                                   options_.until_quiet_s * static_cast<double>(hz)) {
        break;
      }
      /* The network runs between two bursts: several flows at a time cost less than as many single ones. */
      const std::size_t due = flows_.due();
      const bool waited = (due > 0 || n == 0) && now - last_poll > hz / 1000;
      if (due >= options_.batch || (n == 0 && due > 0) || waited) {
        poll(options_.ticks_per_second > 0 ? 0 : to_ns(now, hz));
        last_poll = rte_get_tsc_cycles();
      }
    }
    note(flows_.flush().error());
    while (poll(0)) continue;
  }

  static void print_head() {
    std::printf("queue  lcore     frames        bytes  verdicts   labelled     steered     default     dropped\n");
  }
  void print() const {
    std::printf("%5u  %5u  %9" PRIu64 "  %11" PRIu64 "  %8" PRIu64 "  %9" PRIu64, queue_, lcore_, frames_, bytes_,
                verdicts_, labelled_);
    std::printf("  %10" PRIu64 "  %10" PRIu64 "  %10" PRIu64 "\n", steered_, frames_ - steered_, dropped_);
  }
  void print_table() const {
    const auto json = flows_.stats();
    std::printf("queue %u: %s\n", queue_, json ? json->c_str() : json.error().what());
  }
  bool failed() const { return errors_ > 0; }
  void on(unsigned lcore) { lcore_ = lcore; }

 private:
  /* Shows the frames to the table, and sends each out of the port that its flow has by now. */
  void forward(rte_mbuf **burst, std::uint16_t n, std::uint64_t read_ns) {
    const std::uint8_t *bytes[burst_size];
    tgpt::frame_info infos[burst_size];
    for (std::uint16_t i = 0; i < n; ++i) {
      bytes[i] = rte_pktmbuf_mtod(burst[i], const std::uint8_t *);
      infos[i] = {time_of(burst[i], read_ns), rte_pktmbuf_data_len(burst[i]), rte_pktmbuf_pkt_len(burst[i])};
      bytes_ += infos[i].wire_len;
    }
    frames_ += n;
    note(flows_.push_frames(ethernet, {bytes, n}, {infos, n}).error());

    /* By port; a port that is met keeps its place, of which there are no more than frames. */
    struct group {
      std::uint16_t port, n;
      rte_mbuf *frames[burst_size];
    } groups[burst_size];
    std::size_t n_groups = 0;
    for (std::uint16_t i = 0; i < n; ++i) {
      const std::uint16_t to = port_of(burst[i], infos[i].ts_ns);
      group *place = std::find_if(groups, groups + n_groups, [&](const group &g) { return g.port == to; });
      if (place == groups + n_groups) {
        place->port = to;
        place->n = 0;
        ++n_groups;
      }
      place->frames[place->n++] = burst[i];
    }
    for (std::size_t i = 0; i < n_groups; ++i) {
      const std::uint16_t sent = rte_eth_tx_burst(groups[i].port, queue_, groups[i].frames, groups[i].n);
      /* A port that is full must not hold up the others. */
      rte_pktmbuf_free_bulk(groups[i].frames + sent, groups[i].n - sent);
      dropped_ += groups[i].n - sent;
    }
  }

  std::uint64_t time_of(const rte_mbuf *frame, std::uint64_t read_ns) {
    if (options_.ticks_per_second == 0) return now_ns_ = read_ns;
    if ((frame->ol_flags & timestamp_flag_) == 0) {
      note({TGPT_E_INVALID, "a frame has no timestamp: the device gives none, run without --timestamps"});
      return now_ns_;
    }
    const auto ticks = *RTE_MBUF_DYNFIELD(frame, timestamp_at_, const rte_mbuf_timestamp_t *);
    return now_ns_ = to_ns(ticks, options_.ticks_per_second);
  }

  std::uint16_t port_of(const rte_mbuf *frame, std::uint64_t ts_ns) {
    const auto key = key_of(frame);
    if (!key) return options_.otherwise;
    if (key->begins) {
      steering_.erase(key->flow);
      return options_.otherwise;
    }
    const auto found = steering_.find(key->flow, ts_ns);
    steered_ += found.has_value();
    return found.value_or(options_.otherwise);
  }

  /* Whether more verdicts may be there. */
  bool poll(std::uint64_t now_ns) {
    tgpt::verdict room[verdicts_per_poll];
    const auto verdicts = flows_.poll(room, now_ns);
    note(verdicts.error());
    if (!verdicts) return false;
    for (const tgpt::verdict &v : *verdicts) {
      if (v.is_final != 0) take(v);
    }
    if (options_.print_verdicts && !verdicts->empty()) std::fflush(stdout);
    return verdicts->size() == verdicts_per_poll;
  }

  void take(const tgpt::verdict &v) {
    const bool known = v.label < ports_.size();
    const std::uint16_t to = known ? ports_[v.label] : options_.otherwise;
    ++verdicts_;
    labelled_ += known;
    if (to == options_.otherwise) {
      steering_.erase(flow_key::of(v));
    } else {
      steering_.put(flow_key::of(v), to, v.last_ns);
    }
    if (!options_.print_verdicts) return;
    const auto end = [&](const std::uint8_t *address, unsigned port) {
      char text[INET6_ADDRSTRLEN] = "?";
      inet_ntop(v.ip_version == 4 ? AF_INET : AF_INET6, v.ip_version == 4 ? address + 12 : address, text, sizeof text);
      const std::string host = v.ip_version == 4 ? text : "[" + std::string(text) + "]";
      return host + ":" + std::to_string(port);
    };
    const std::string protocol = v.protocol == IPPROTO_TCP   ? "tcp"
                                 : v.protocol == IPPROTO_UDP ? "udp"
                                                             : "ip-" + std::to_string(v.protocol);
    const std::string both = end(v.client, v.client_port) + " -> " + end(v.server, v.server_port) + "/" + protocol;
    std::printf("%-52s  %-14s  %11.3f  %7u  port %u\n", both.c_str(),
                known ? std::string(classifier_.label(v.label)).c_str() : "unknown", static_cast<double>(v.score),
                v.n_packets, to);
  }

  /* Frames are forwarded whatever the table says: the first error is told, the others are counted. */
  void note(const tgpt::error &why) {
    if (why.code() == TGPT_OK) return;
    if (errors_++ == 0) std::fprintf(stderr, "broker: queue %u: %s\n", queue_, why.what());
  }

  const options &options_;
  const tgpt::classifier &classifier_;
  const std::vector<std::uint16_t> &ports_;
  const std::uint16_t queue_;
  unsigned lcore_ = 0;
  tgpt::flows flows_;
  steering steering_;
  int timestamp_at_ = -1;
  std::uint64_t timestamp_flag_ = 0, now_ns_ = 0;
  std::uint64_t frames_ = 0, bytes_ = 0, verdicts_ = 0, labelled_ = 0, steered_ = 0, dropped_ = 0, errors_ = 0;
};

/* The worker of an lcore, by the lcore's number. */
int run_worker(void *workers) {
  (*static_cast<std::map<unsigned, worker> *>(workers)).at(rte_lcore_id()).run();
  return 0;
}

/* The ports in use, with the labels that leave by them. */
std::map<std::uint16_t, std::string> labels_of_ports(const options &o) {
  std::map<std::uint16_t, std::string> labels{{o.otherwise, "all others"}};
  labels.try_emplace(o.in);
  for (const auto &[label, id] : o.ports) {
    std::string &those = labels[id];
    those += (those.empty() ? "" : ", ") + label;
  }
  return labels;
}

void print_ports(const std::map<std::uint16_t, std::string> &ports) {
  std::printf("port     frames in     missed    frames out  labels\n");
  for (const auto &[id, labels] : ports) {
    rte_eth_stats stats{};
    if (rte_eth_stats_get(id, &stats) != 0) continue;
    std::printf("%4u  %12" PRIu64 "  %9" PRIu64 "  %12" PRIu64 "  %s\n", id, stats.ipackets, stats.imissed,
                stats.opackets, labels.c_str());
  }
}

int broker(const options &o) {
  tgpt::config config = tgpt::config::make().value();
  /* Steered is the packet that the wire carries, not one inside of it. */
  config.set("meter.tunnel", "outer").value();
  for (const auto &[key, value] : o.settings) config.set(key, value).value();
  const auto context = tgpt::context::make(config).value();
  const auto classifier = tgpt::classifier::open(context, o.bundle).value();
  const std::vector<std::uint16_t> ports = ports_of_labels(o, classifier);

  const std::map<std::uint16_t, std::string> used = labels_of_ports(o);
  const auto n = static_cast<std::uint16_t>(rte_lcore_count());
  const auto per_queue = descriptors * static_cast<unsigned>(1 + used.size()) + 2 * burst_size + 256;
  rte_mempool *pool = rte_pktmbuf_pool_create("frames", n * per_queue, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                              static_cast<int>(rte_socket_id()));
  if (pool == nullptr) {
    throw wrong("there is no memory for " + std::to_string(n * per_queue) +
                " frames: reserve huge pages (dpdk-hugepages.py), or with --no-huge give -m MEGABYTES");
  }
  for (const auto &[id, labels] : used) {
    start(id, id == o.in ? n : 0, labels.empty() ? 0 : n, o.ticks_per_second > 0, pool);
  }

  std::map<unsigned, worker> workers;
  unsigned lcore;
  for (lcore = rte_get_next_lcore(-1U, 0, 0); lcore < RTE_MAX_LCORE; lcore = rte_get_next_lcore(lcore, 0, 0)) {
    const auto queue = static_cast<std::uint16_t>(workers.size());
    workers.try_emplace(lcore, o, classifier, config, ports, queue).first->second.on(lcore);
  }
  std::fprintf(stderr, "broker: %u queues of port %u, engine %s\n", n, o.in, std::string(classifier.engine()).c_str());
  must(rte_eal_mp_remote_launch(run_worker, &workers, CALL_MAIN), "launch");
  rte_eal_mp_wait_lcore();

  worker::print_head();
  for (const auto &[id, w] : workers) w.print();
  print_ports(used);
  for (const auto &[id, w] : workers) w.print_table();
  for (const auto &[id, labels] : used) {
    rte_eth_dev_stop(id);
    rte_eth_dev_close(id);
  }
  return std::any_of(workers.begin(), workers.end(), [](const auto &w) { return w.second.failed(); }) ? 1 : 0;
}

}  // namespace

/* 0, or 1 for what failed, or 2 for what the user can mend. */
int main(int argc, char **argv) {
  /* Before EAL, which may end the process by itself when it is told --help. */
  const std::vector<std::string> all(argv + 1, argv + argc);
  const bool asks = std::find(all.begin(), all.end(), "--help") != all.end() || all.empty();
  if (asks) {
    std::fputs(usage, all.empty() ? stderr : stdout);
    return all.empty() ? 2 : 0;
  }
  const int used = rte_eal_init(argc, argv);
  if (used < 0) {
    std::fprintf(stderr, "broker: EAL did not start: %s; what it needs is said above\n", rte_strerror(rte_errno));
    return 1;
  }
  int code = 1;
  try {
    std::signal(SIGINT, [](int) { stop.store(true); });
    std::signal(SIGTERM, [](int) { stop.store(true); });
    code = broker(parse(std::vector<std::string>(argv + used + 1, argv + argc)));
  } catch (const wrong &why) {
    std::fprintf(stderr, "broker: %s (broker --help tells more)\n", why.what());
    code = 2;
  } catch (const tgpt::error &why) {
    std::fprintf(stderr, "broker: %s\n", why.what());
    code = why.code() == TGPT_E_RUNTIME || why.code() == TGPT_E_PANIC ? 1 : 2;
  } catch (const std::exception &why) {
    std::fprintf(stderr, "broker: %s\n", why.what());
  }
  rte_eal_cleanup();
  return code;
}
