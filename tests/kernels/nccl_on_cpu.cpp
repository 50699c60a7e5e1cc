// A libnccl.so.2 whose ranks are threads of one process and whose GPUs are those of driver_on_cpu.cpp, so that what calls NCCL
// can be tested where there is no GPU. It checks what NCCL leaves to its user: that ranks are told apart, and that all sum as
// many values. A rank that does not come to a sum is an error of the others, told as NCCL tells it: not by the call itself, but
// when it is asked for.

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

enum { SUCCESS = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum { FLOAT32 = 7, SUM = 0 };

static const auto PATIENCE = std::chrono::milliseconds(500);

struct Id {
    char bytes[128];
};

struct Group {
    int size = 0, come = 0;
    std::vector<bool> there;
    // The sum that is under way.
    size_t count = 0;
    int arrived = 0;
    unsigned long long done = 0;
    std::vector<float*> values;
};

struct Communicator {
    Group* group;
    int rank, error;
};

// Never destroyed: a rank may still wait for others when the process ends.
static std::mutex& lock = *new std::mutex;
static std::condition_variable& changed = *new std::condition_variable;
static std::map<std::string, Group>& groups = *new std::map<std::string, Group>;
static int ids = 0;

extern "C" {

const char* ncclGetErrorString(int status) {
    switch (status) {
        case SUCCESS: return "no error";
        case INVALID_ARGUMENT: return "invalid argument";
        case INVALID_USAGE: return "invalid usage";
        case REMOTE_ERROR: return "remote process exited or there was a network error";
        default: return nullptr;
    }
}

int ncclGetUniqueId(Id* id) {
    std::lock_guard<std::mutex> guard(lock);
    memset(id->bytes, 0x5a, sizeof id->bytes);
    snprintf(id->bytes, sizeof id->bytes, "group %d", ids++);
    return SUCCESS;
}

int ncclCommInitRank(Communicator** out, int size, Id id, int rank) {
    // The end of the id counts as well: all of it has to be passed on.
    if (rank < 0 || rank >= size || id.bytes[127] != 0x5a) return INVALID_ARGUMENT;
    std::unique_lock<std::mutex> guard(lock);
    Group& group = groups[std::string(id.bytes, sizeof id.bytes)];
    if (group.size == 0) {
        group.size = size;
        group.there.resize(size);
        group.values.resize(size);
    }
    if (group.size != size || group.there[rank]) return INVALID_USAGE;
    group.there[rank] = true;
    group.come++;
    changed.notify_all();
    // For as long as it takes.
    changed.wait(guard, [&] { return group.come == size; });
    *out = new Communicator{&group, rank, SUCCESS};
    return SUCCESS;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, Communicator* communicator, void*) {
    if (from != to || !to || type != FLOAT32 || operation != SUM || count == 0) return INVALID_ARGUMENT;
    std::unique_lock<std::mutex> guard(lock);
    Group& group = *communicator->group;
    if (group.arrived == 0) group.count = count;
    if (group.count != count) return INVALID_ARGUMENT;
    group.values[communicator->rank] = (float*)to;
    unsigned long long turn = group.done;
    if (++group.arrived == group.size) {
        for (size_t i = 0; i < count; ++i) {
            float sum = 0;
            for (float* values : group.values) sum += values[i];
            for (float* values : group.values) values[i] = sum;
        }
        group.arrived = 0;
        group.done++;
        changed.notify_all();
    } else if (!changed.wait_for(guard, PATIENCE, [&] { return group.done != turn; })) {
        group.arrived--;
        communicator->error = REMOTE_ERROR;
    }
    return SUCCESS;
}

int ncclCommGetAsyncError(Communicator* communicator, int* status) { return *status = communicator->error, SUCCESS; }

static int end(Communicator* communicator) {
    delete communicator;
    return SUCCESS;
}

int ncclCommDestroy(Communicator* communicator) {
    if (communicator->error != SUCCESS) {
        fprintf(stderr, "a broken communicator is destroyed, which would hang\n");
        abort();
    }
    return end(communicator);
}

int ncclCommAbort(Communicator* communicator) { return end(communicator); }
}
