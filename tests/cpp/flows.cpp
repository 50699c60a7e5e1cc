/* The streaming table. tests/cpp_api.rs compares what it prints with what tests/c/flows.c does. */
#include <array>
#include <cinttypes>
#include <cstdlib>

#include "check.hpp"

namespace tgpt = trafficgpt;

/* Packet i of a flow, at the time that its times since the packet before add up to. */
static tgpt::observation observe(tgpt::span<const tgpt::packet> packets, std::size_t flow, std::size_t i) {
  const bool from_client = packets[i].size > 0;
  tgpt::observation o{};
  o.ts_ns = 1000000000u;
  for (std::size_t j = 1; j <= i; ++j) o.ts_ns += static_cast<std::uint64_t>(packets[j].ipt_us * 1000.0f);
  o.src[10] = o.src[11] = o.dst[10] = o.dst[11] = 0xff;
  (from_client ? o.src : o.dst)[15] = static_cast<std::uint8_t>(flow);
  (from_client ? o.dst : o.src)[15] = 200;
  o.src_port = from_client ? 5000 : 443;
  o.dst_port = from_client ? 443 : 5000;
  o.size = static_cast<std::uint32_t>(std::abs(packets[i].size));
  o.protocol = 17;
  return o;
}

static void print_all(tgpt::flows &flows) {
  std::array<tgpt::verdict, 13> room;
  for (std::size_t n = room.size(); n == room.size();) {
    const auto verdicts = flows.poll(room, 1).value();
    for (const tgpt::verdict &v : verdicts) {
      std::uint32_t bits;
      std::memcpy(&bits, &v.score, sizeof bits);
      for (const unsigned byte : v.client) std::printf("%02x", byte);
      for (const unsigned byte : v.server) std::printf("%02x", byte);
      std::printf(" %u %u %u %u %" PRIu64 " %" PRIu64 " %u", v.client_port, v.server_port, v.protocol, v.ip_version,
                  v.start_ns, v.last_ns, v.n_packets);
      std::printf(" %u %08x %u %u %u %u %u\n", v.label, bits, v.epoch, v.reason, v.is_final, v.n_read, v.zone);
    }
    n = verdicts.size();
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  tgpt::config config = native();
  config.set("flows.max_flows", "100").value();
  config.set("flows.counts", "3,6,12").value();
  config.set("flows.confidence", "0.9").value();
  config.set("flows.min_packets", "1").value();
  auto context = tgpt::context::make(config).value();
  auto classifier = tgpt::classifier::open(context, argv[1]).value();
  auto flows = tgpt::flows::make(classifier, config).value();

  /* All flows side by side. */
  const tgpt::rows rows = some_flows();
  std::vector<tgpt::observation> seen;
  for (std::size_t i = 0; i < 21; ++i) {
    for (std::size_t flow = 0; flow < rows.size(); ++flow) {
      if (i < rows[flow].size()) seen.push_back(observe(rows[flow], flow, i));
    }
  }
  const std::size_t half = seen.size() / 2;
  flows.push({seen.data(), half}).value();
  CHECK(flows.due() > 0);
  print_all(flows);
  flows.push({seen.data() + half, seen.size() - half}).value();
  flows.push({}).value();
  CHECK(flows.poll({}, 1).value().empty() && flows.due() > 0);
  print_all(flows);

  /* The same classifier again: flows go on with it. */
  CHECK(flows.swap(classifier).value() == 1);
  CHECK(flows.swap(classifier).value() == 2);
  classifier = {};
  context = {};

  const std::uint8_t frame[60] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0,
                                  10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0, 0, 53};
  const std::uint8_t *const frames[] = {frame, nullptr, frame};
  std::vector<tgpt::frame_info> infos;
  for (std::uint64_t i = 0; i < 3; ++i) infos.push_back({1000000000u + i, i == 1 ? 0 : 60u, 60});
  flows.push_frames(1, frames, infos).value();
  flows.push_frames(1, {}, {}).value();
  flows.flush().value();
  print_all(flows);
  std::printf("%s\n", flows.stats().value().c_str());
  return failures != 0;
}
