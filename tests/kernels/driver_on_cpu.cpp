// A libcuda.so that runs the kernels on the CPU, as far as the launchers use the driver, so that they can be tested where there
// is no GPU. It checks what a driver does not: that copies and the ends of buffers are respected, and that a kernel is in the
// PTX that is loaded. Its memory begins with noise.

#include "arguments.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>
#include <vector>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_PTX = 218, NOT_FOUND = 500, NOT_READY = 600 };

typedef unsigned long long Address;

static const unsigned char NOISE = 0xa5;
static const size_t FENCE = 64;
static const char* const OTHER_MEMORY = getenv("TRAFFICGPT_GPU_MEMORY");
static const size_t MEMORY = OTHER_MEMORY ? strtoull(OTHER_MEMORY, nullptr, 10) : 1 << 30;

static std::mutex lock;
static std::map<Address, size_t> allocations;
static size_t used = 0;

// Whether `bytes` from `address` on lie within one allocation.
static bool inside(Address address, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return false;
    auto [begin, size] = *std::prev(next);
    return address + bytes <= begin + size;
}

static thread_local void* current = nullptr;
// Primary contexts by GPU: how often each is held.
static int contexts[64], stream;

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

// Runs the kernel of `name` with the arguments that a launch points to; with `grid` 0 only says whether there is one.
static bool run(const char* name, unsigned grid, void** arguments) {
    auto argument = [=]<typename T>(size_t i, T*) -> T { return *(T*)arguments[i]; };
    return find_kernel(name, [&](auto* kernel) {
        if (grid > 0) run_kernel(kernel, grid, argument);
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
    std::lock_guard<std::mutex> guard(lock);
    contexts[device]++;
    return *out = &contexts[device], SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    std::unique_lock<std::mutex> guard(lock);
    bool is_last = --contexts[device] == 0;
    guard.unlock();
    return is_last ? wait() : SUCCESS;
}
int cuCtxGetCurrent(void** out) { return *out = current, SUCCESS; }
int cuCtxSetCurrent(void* to) { return current = to, SUCCESS; }
int cuCtxSynchronize() { return SUCCESS; }
int cuGetErrorName(int, const char** text) { return *text = "an error of the CPU's driver", SUCCESS; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the CPU's driver", SUCCESS; }

int cuStreamCreate(void** out, unsigned) { return *out = &stream, SUCCESS; }
int cuStreamDestroy_v2(void*) { return SUCCESS; }
int cuStreamSynchronize(void*) { return wait(); }
int cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
int cuEventCreate(void** out, unsigned) { return *out = &stream, SUCCESS; }
int cuEventDestroy_v2(void*) { return SUCCESS; }
int cuEventRecord(void*, void*) { return SUCCESS; }
int cuEventQuery(void*) { return hangs() ? NOT_READY : SUCCESS; }

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    std::lock_guard<std::mutex> guard(lock);
    return *free = MEMORY - used, *total = MEMORY, SUCCESS;
}

int cuMemAllocAsync(Address* out, size_t bytes, void*) {
    if (!current) return INVALID_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    if (bytes > MEMORY - used) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (bytes + FENCE + 255) / 256 * 256);
    memset(memory, NOISE, bytes + FENCE);
    *out = (Address)memory;
    allocations[*out] = bytes;
    used += bytes;
    return SUCCESS;
}

int cuMemFreeAsync(Address address, void*) {
    std::lock_guard<std::mutex> guard(lock);
    auto at = allocations.find(address);
    if (at == allocations.end()) return INVALID_VALUE;
    const unsigned char* end = (const unsigned char*)address + at->second;
    for (size_t i = 0; i < FENCE; ++i) {
        if (end[i] != NOISE) {
            fprintf(stderr, "something was written past a buffer of %zu bytes\n", at->second);
            abort();
        }
    }
    used -= at->second;
    allocations.erase(at);
    free((void*)address);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) {
    if (!inside(to, bytes)) return INVALID_VALUE;
    // From memory that is not pinned: what is longer than this has gone to the GPU when the call comes back.
    if (bytes > 1 << 16) wait();
    memcpy((void*)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) {
    if (!inside(from, bytes)) return INVALID_VALUE;
    wait();
    memcpy(to, (const void*)from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
    if (!inside(to, bytes) || !inside(from, bytes)) return INVALID_VALUE;
    memcpy((void*)to, (const void*)from, bytes);
    return SUCCESS;
}

int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void*) {
    if (!inside(to, bytes)) return INVALID_VALUE;
    memset((void*)to, value, bytes);
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
    if (!run(name, 0, nullptr)) return NOT_FOUND;
    static std::map<std::string, int> functions;
    std::lock_guard<std::mutex> guard(lock);
    *out = (void*)functions.try_emplace(name).first->first.c_str();
    return SUCCESS;
}

int cuLaunchKernel(void* function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block, unsigned block_y,
                   unsigned block_z, unsigned shared, void*, void** arguments, void**) {
    if (!current) return INVALID_CONTEXT;
    if (grid == 0 || grid_y != 1 || grid_z != 1 || block != BLOCK || block_y != 1 || block_z != 1 || shared != 0) {
        return INVALID_VALUE;
    }
    // One at a time: blocks share the memory that the kernels declare.
    static std::mutex one;
    std::lock_guard<std::mutex> guard(one);
    return run((const char*)function, grid, arguments) ? SUCCESS : NOT_FOUND;
}
}
