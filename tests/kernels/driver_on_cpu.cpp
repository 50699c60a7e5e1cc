// A libcuda.so that runs the kernels on the CPU, as far as the launchers use the driver, so that they can be tested where there
// is no GPU. It checks what a driver does not: that copies and the ends of buffers are respected, and that a kernel is in the
// PTX that is loaded; that only launches are recorded, and that no graph is replayed that names memory which was freed meanwhile.
// Its memory begins with noise.

#include "arguments.hpp"
#include "streams_on_cpu.hpp"

#include <algorithm>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_CONTEXT = 201,
    INVALID_PTX = 218,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
    RECORDING_UNSUPPORTED = 900,
    RECORDING_INVALIDATED = 901
};

static const unsigned char NOISE = 0xa5;
static const size_t FENCE = 64;
static const char* const OTHER_MEMORY = getenv("TRAFFICGPT_GPU_MEMORY");
static const size_t MEMORY = OTHER_MEMORY ? strtoull(OTHER_MEMORY, nullptr, 10) : 1 << 30;

struct Allocation {
    size_t size, number;
};
static std::map<Address, Allocation> allocations, pinned;
static size_t used = 0, numbers = 0;

// Whether `bytes` from `address` on lie within one of `all`, and in which.
static bool inside(const std::map<Address, Allocation>& all, Address address, size_t bytes, size_t* number = nullptr) {
    Guard guard(lock);
    auto next = all.upper_bound(address);
    if (next == all.begin()) return false;
    auto [begin, allocation] = *std::prev(next);
    if (number) *number = allocation.number;
    return address + bytes <= begin + allocation.size;
}

static bool inside(Address address, size_t bytes) { return inside(allocations, address, bytes); }

static thread_local void* current = nullptr;
// Primary contexts by GPU: how often each is held.
static int contexts[64];

// The GPUs of the machine, TRAFFICGPT_GPUS or one, of which CUDA_VISIBLE_DEVICES may show some.
static std::vector<int> gpus() {
    const char *all = getenv("TRAFFICGPT_GPUS"), *shown = getenv("CUDA_VISIBLE_DEVICES");
    int n = std::min(all ? atoi(all) : 1, 64);
    std::vector<int> out;
    if (!shown) {
        for (int i = 0; i < n; ++i) out.push_back(i);
        return out;
    }
    for (const char* at = shown; *at; at = *at == ',' ? at + 1 : at) {
        char* end;
        long gpu = strtol(at, &end, 10);
        if (end == at || gpu < 0 || gpu >= n) break;
        out.push_back((int)gpu);
        at = end;
    }
    return out;
}

// Whether nothing that is asked for ends any more: TRAFFICGPT_GPU_HANGS names a file that says so by being there.
static bool hangs() {
    const char* file = getenv("TRAFFICGPT_GPU_HANGS");
    return file && access(file, F_OK) == 0;
}

// What waits for a GPU that hangs does not come back.
static int wait() {
    while (hangs()) sleep(1);
    return SUCCESS;
}

// The launch of the kernel of `name` with the arguments that are pointed to; with `grid` 0 only whether there is one.
static bool bind(const char* name, unsigned grid, void** arguments, Launch* launch) {
    auto argument = [=]<typename T>(size_t i, T*) -> T {
        T value = *(T*)arguments[i];
        size_t number;
        if constexpr (std::is_pointer_v<T>) {
            if (inside(allocations, (Address)value, 1, &number)) launch->names.emplace_back((Address)value, number);
        }
        return value;
    };
    return find_kernel(name, [&](auto* kernel) {
        if (grid > 0) launch->job = bind_kernel(kernel, grid, argument);
    });
}

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDeviceGetCount(int* count) { return *count = (int)gpus().size(), SUCCESS; }
int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= (int)gpus().size()) return INVALID_VALUE;
    return *device = gpus()[ordinal], SUCCESS;
}
int cuDeviceGetUuid(char* uuid, int device) { return memset(uuid, 0xc0 + device, 16), SUCCESS; }
int cuDeviceGetUuid_v2(char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }
int cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "CPU"), SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 8.0; memory pools; two multiprocessors.
    *value = attribute == 75 ? 8 : attribute == 115 ? 1 : attribute == 16 ? 2 : 0;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** out, int device) {
    Guard guard(lock);
    contexts[device]++;
    return *out = &contexts[device], SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    std::unique_lock<std::recursive_mutex> guard(lock);
    bool is_last = --contexts[device] == 0;
    guard.unlock();
    return is_last ? wait() : SUCCESS;
}
int cuCtxGetCurrent(void** out) { return *out = current, SUCCESS; }
int cuCtxSetCurrent(void* to) { return current = to, SUCCESS; }
int cuCtxSynchronize() {
    Guard guard(lock);
    for (Stream* stream : streams) finish(stream);
    return SUCCESS;
}
int cuGetErrorName(int, const char** text) { return *text = "an error of the CPU's driver", SUCCESS; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the CPU's driver", SUCCESS; }

int cuStreamCreate(void** out, unsigned) {
    Guard guard(lock);
    streams.push_back(new Stream);
    return *out = streams.back(), SUCCESS;
}
int cuStreamDestroy_v2(Stream* stream) {
    // Not deleted: events may still name it.
    Guard guard(lock);
    return finish(stream), SUCCESS;
}
int cuStreamSynchronize(Stream* stream) {
    wait();
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    return finish(stream), SUCCESS;
}
int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    Event then = *event;
    if (then.stream && then.stream != stream) add(stream, [=] { finish(then.stream, then.after); });
    return SUCCESS;
}
int cuEventCreate(void** out, unsigned) { return *out = new Event, SUCCESS; }
int cuEventDestroy_v2(Event* event) {
    delete event;
    return SUCCESS;
}
int cuEventRecord(Event* event, Stream* stream) {
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    *event = {stream, stream->done + stream->waiting.size()};
    return SUCCESS;
}
int cuEventSynchronize(Event* event) {
    wait();
    Guard guard(lock);
    if (event->stream) finish(event->stream, event->after);
    return SUCCESS;
}
int cuEventQuery(Event* event) { return hangs() ? NOT_READY : cuEventSynchronize(event); }

int cuStreamBeginCapture_v2(Stream* stream, int) {
    Guard guard(lock);
    if (graphs_fail("begin")) return NOT_SUPPORTED;
    if (stream->records) return INVALID_VALUE;
    return stream->records = true, SUCCESS;
}
int cuStreamEndCapture(Stream* stream, Graph** out) {
    Guard guard(lock);
    *out = nullptr;
    if (!stream->records) return INVALID_VALUE;
    stream->records = false;
    std::vector<Launch> launches = std::move(stream->recorded);
    stream->recorded.clear();
    if (graphs_fail("end")) return RECORDING_INVALIDATED;
    return *out = new Graph{launches}, SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph** out, Graph* graph, unsigned long long) {
    if (graphs_fail("make")) return OUT_OF_MEMORY;
    return *out = new Graph(*graph), SUCCESS;
}
int cuGraphLaunch(Graph* graph, Stream* stream) {
    Guard guard(lock);
    if (!current) return INVALID_CONTEXT;
    if (graphs_fail("launch")) return INVALID_VALUE;
    for (const Launch& launch : graph->launches) {
        for (auto [address, number] : launch.names) {
            size_t now;
            if (!inside(allocations, address, 1, &now) || now != number) {
                fprintf(stderr, "a graph names memory that has been freed\n");
                abort();
            }
        }
        add(stream, launch.job);
    }
    return SUCCESS;
}
int cuGraphExecDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}
int cuGraphDestroy(Graph* graph) {
    delete graph;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    Guard guard(lock);
    return *free = MEMORY - used, *total = MEMORY, SUCCESS;
}

static void* noise(size_t bytes) {
    void* memory = aligned_alloc(256, (bytes + FENCE + 255) / 256 * 256);
    return memset(memory, NOISE, bytes + FENCE);
}

static void check_fence(Address address, size_t bytes) {
    const unsigned char* end = (const unsigned char*)address + bytes;
    for (size_t i = 0; i < FENCE; ++i) {
        if (end[i] == NOISE) continue;
        fprintf(stderr, "something was written past a buffer of %zu bytes\n", bytes);
        abort();
    }
}

int cuMemAllocAsync(Address* out, size_t bytes, Stream* stream) {
    if (!current) return INVALID_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    if (bytes > MEMORY - used) return OUT_OF_MEMORY;
    *out = (Address)noise(bytes);
    allocations[*out] = {bytes, numbers++};
    used += bytes;
    return SUCCESS;
}

int cuMemFreeAsync(Address address, Stream* stream) {
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    finish(stream);
    auto at = allocations.find(address);
    if (at == allocations.end()) return INVALID_VALUE;
    check_fence(address, at->second.size);
    used -= at->second.size;
    allocations.erase(at);
    free((void*)address);
    return SUCCESS;
}

int cuMemHostAlloc(void** out, size_t bytes, unsigned) {
    if (!current) return INVALID_CONTEXT;
    Guard guard(lock);
    *out = noise(bytes);
    pinned[(Address)*out] = {bytes, numbers++};
    return SUCCESS;
}

int cuMemFreeHost(void* memory) {
    Guard guard(lock);
    auto at = pinned.find((Address)memory);
    if (at == pinned.end()) return INVALID_VALUE;
    check_fence(at->first, at->second.size);
    pinned.erase(at);
    free(memory);
    return SUCCESS;
}

// Copies on `stream`, when it comes to it, from or to `host`.
static int copy(Stream* stream, void* to, const void* from, size_t bytes, const void* host) {
    bool may_wait = inside(pinned, (Address)host, bytes);
    // To memory that is not pinned all is done when the call comes back, and from it what is longer than this.
    if (!may_wait && (host == to || bytes > 1 << 16)) wait();
    Guard guard(lock);
    if (stream->records) return RECORDING_UNSUPPORTED;
    add(stream, [=] { memcpy(to, from, bytes); }, may_wait);
    // Of other memory the driver has a copy when the call comes back, or has written it.
    if (!may_wait) finish(stream);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
    if (!inside(to, bytes)) return INVALID_VALUE;
    return copy(stream, (void*)to, from, bytes, from);
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
    if (!inside(from, bytes)) return INVALID_VALUE;
    return copy(stream, to, (const void*)from, bytes, to);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (!inside(to, bytes) || !inside(from, bytes)) return INVALID_VALUE;
    if (stream->records) return RECORDING_UNSUPPORTED;
    add(stream, [=] { memcpy((void*)to, (const void*)from, bytes); });
    return SUCCESS;
}

int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream* stream) {
    Guard guard(lock);
    if (!inside(to, bytes)) return INVALID_VALUE;
    if (stream->records) return RECORDING_UNSUPPORTED;
    add(stream, [=] { memset((void*)to, value, bytes); });
    return SUCCESS;
}

int cuModuleLoadData(void** out, const void* image) {
    if (strncmp((const char*)image, "//", 2) != 0 || !strstr((const char*)image, "\n.version ")) return INVALID_PTX;
    *out = new std::string((const char*)image);
    return SUCCESS;
}

int cuModuleUnload(void* module) {
    delete (std::string*)module;
    return SUCCESS;
}

int cuModuleGetFunction(void** out, void* module, const char* name) {
    if (((std::string*)module)->find(std::string(".visible .entry ") + name + "(") == std::string::npos) return NOT_FOUND;
    if (!bind(name, 0, nullptr, nullptr)) return NOT_FOUND;
    static std::map<std::string, int> functions;
    Guard guard(lock);
    *out = (void*)functions.try_emplace(name).first->first.c_str();
    return SUCCESS;
}

int cuLaunchKernel(void* function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block, unsigned block_y,
                   unsigned block_z, unsigned shared, Stream* stream, void** arguments, void**) {
    if (!current) return INVALID_CONTEXT;
    if (grid == 0 || grid_y != 1 || grid_z != 1 || block != BLOCK || block_y != 1 || block_z != 1 || shared != 0) {
        return INVALID_VALUE;
    }
    Guard guard(lock);
    Launch launch;
    if (!bind((const char*)function, grid, arguments, &launch)) return NOT_FOUND;
    if (stream->records) {
        stream->recorded.push_back(std::move(launch));
    } else {
        add(stream, std::move(launch.job));
    }
    return SUCCESS;
}
}
