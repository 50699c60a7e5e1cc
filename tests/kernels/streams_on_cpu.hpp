// Streams, events and graphs of the driver that runs on the CPU. What is asked of a stream is done at once, until it is asked to
// copy from or to pinned memory: that copy and all after it wait for as long as they may, until somebody waits for them, so that
// who reads or writes pinned memory too early finds out. Between the two ends of a recording launches are kept and not done.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

typedef unsigned long long Address;
typedef std::function<void()> Job;

struct Launch {
    Job job;
    // The buffers that its arguments lie in, by their numbers.
    std::vector<std::pair<Address, size_t>> names;
};

struct Stream {
    bool records = false;
    std::vector<Launch> recorded;
    std::deque<Job> waiting;
    size_t done = 0;
};

struct Event {
    Stream* stream = nullptr;
    size_t after = 0;
};

struct Graph {
    std::vector<Launch> launches;
};

// Over all of the driver's state; jobs run under it, one at a time, as blocks share the memory that kernels declare.
static std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Guard;

static std::vector<Stream*> streams;

// Does what `stream` was asked for until `after` jobs of it are done.
static void finish(Stream* stream, size_t after) {
    while (!stream->waiting.empty() && stream->done < after) {
        Job job = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        ++stream->done;
        job();
    }
}

static void finish(Stream* stream) { finish(stream, (size_t)-1); }

static void add(Stream* stream, Job job, bool may_wait = false) {
    if (may_wait || !stream->waiting.empty()) {
        stream->waiting.push_back(std::move(job));
    } else {
        ++stream->done;
        job();
    }
}

// How TRAFFICGPT_GRAPHS says that recording fails: at its beginning, its end, when a graph is made of it, or when that is launched.
static bool graphs_fail(const char* where) {
    const char* named = getenv("TRAFFICGPT_GRAPHS");
    return named && std::string(named) == where;
}
