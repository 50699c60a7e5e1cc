// A libnccl.so.2 whose GPUs are those of driver_on_cpu.cpp and whose ranks are threads or processes of one machine, so that what
// calls NCCL can be tested where there is no GPU. It checks what NCCL leaves to its user: that ranks are told apart, and that all
// sum as many values. A rank that does not come to a sum is an error of the others, told as NCCL tells it: not by the call
// itself, but when it is asked for.

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <mutex>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum { FLOAT32 = 7, SUM = 0 };

static const int PATIENCE_S = 2, MOST_RANKS = 8;
static const size_t PART = 1 << 14;

struct Id {
    char bytes[128];
};

// What the ranks share: a file in memory, named by the id.
struct Group {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int size, come;
    bool there[MOST_RANKS];
    // The sum that is under way, a part of its values at a time.
    size_t count;
    int arrived;
    unsigned long long turn;
    float values[MOST_RANKS][PART];
};

struct Communicator {
    Group* group;
    int rank, error;
};

static std::mutex lock;
static std::string made;

// Whether sums do not end and nothing is told of it: see driver_on_cpu.cpp.
static bool hangs() {
    const char* file = getenv("TRAFFICGPT_GPU_HANGS");
    return file && access(file, F_OK) == 0;
}

// The file goes with the process that made it.
static void remove_file() {
    if (!made.empty()) shm_unlink(made.c_str());
}

// Waits until all ranks have called it as often as this one; false where one does not come. The lock is held.
static bool meet(Group& group) {
    unsigned long long turn = group.turn;
    if (++group.arrived == group.size) {
        group.arrived = 0;
        group.turn++;
        pthread_cond_broadcast(&group.changed);
        return true;
    }
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    while (group.turn == turn) {
        if (pthread_cond_timedwait(&group.changed, &group.lock, &until) == ETIMEDOUT && group.turn == turn) {
            group.arrived--;
            return false;
        }
    }
    return true;
}

extern "C" {

const char* ncclGetErrorString(int status) {
    switch (status) {
        case SUCCESS: return "no error";
        case SYSTEM_ERROR: return "unhandled system error";
        case INVALID_ARGUMENT: return "invalid argument";
        case INVALID_USAGE: return "invalid usage";
        case REMOTE_ERROR: return "remote process exited or there was a network error";
        default: return nullptr;
    }
}

int ncclGetUniqueId(Id* id) {
    std::lock_guard<std::mutex> guard(lock);
    static int ids = 0;
    if (ids == 0) atexit(remove_file);
    remove_file();
    memset(id->bytes, 0x5a, sizeof id->bytes);
    snprintf(id->bytes, sizeof id->bytes, "/trafficgpt-nccl-%d-%d", (int)getpid(), ids++);
    made = id->bytes;
    int file = shm_open(made.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(Group)) != 0) return SYSTEM_ERROR;
    void* memory = mmap(nullptr, sizeof(Group), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return SYSTEM_ERROR;
    pthread_mutexattr_t of_lock;
    pthread_mutexattr_init(&of_lock);
    pthread_mutexattr_setpshared(&of_lock, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&((Group*)memory)->lock, &of_lock);
    pthread_condattr_t of_condition;
    pthread_condattr_init(&of_condition);
    pthread_condattr_setpshared(&of_condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&((Group*)memory)->changed, &of_condition);
    munmap(memory, sizeof(Group));
    return SUCCESS;
}

int ncclCommInitRank(Communicator** out, int size, Id id, int rank) {
    // The end of the id counts as well: all of it has to be passed on.
    if (rank < 0 || rank >= size || size > MOST_RANKS || id.bytes[127] != 0x5a) return INVALID_ARGUMENT;
    int file = shm_open(id.bytes, O_RDWR, 0);
    if (file < 0) return SYSTEM_ERROR;
    void* memory = mmap(nullptr, sizeof(Group), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return SYSTEM_ERROR;
    Group& group = *(Group*)memory;
    pthread_mutex_lock(&group.lock);
    if (group.size == 0) group.size = size;
    bool is_wrong = group.size != size || group.there[rank];
    if (!is_wrong) {
        group.there[rank] = true;
        group.come++;
        pthread_cond_broadcast(&group.changed);
        // For as long as it takes.
        while (group.come < size) pthread_cond_wait(&group.changed, &group.lock);
    }
    pthread_mutex_unlock(&group.lock);
    if (is_wrong) return INVALID_USAGE;
    *out = new Communicator{&group, rank, SUCCESS};
    return SUCCESS;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, Communicator* communicator, void*) {
    if (from != to || !to || type != FLOAT32 || operation != SUM || count == 0) return INVALID_ARGUMENT;
    Group& group = *communicator->group;
    float* values = (float*)to;
    int status = SUCCESS;
    pthread_mutex_lock(&group.lock);
    if (group.arrived == 0) group.count = count;
    if (group.count != count) status = INVALID_ARGUMENT;
    for (size_t begin = 0; begin < count && status == SUCCESS && communicator->error == SUCCESS; begin += PART) {
        size_t n = count - begin < PART ? count - begin : PART;
        memcpy(group.values[communicator->rank], values + begin, n * sizeof(float));
        if (!meet(group)) {
            communicator->error = hangs() ? SUCCESS : REMOTE_ERROR;
            break;
        }
        for (size_t i = 0; i < n; ++i) {
            float sum = 0;
            for (int rank = 0; rank < group.size; ++rank) sum += group.values[rank][i];
            values[begin + i] = sum;
        }
        if (!meet(group)) communicator->error = REMOTE_ERROR;
    }
    pthread_mutex_unlock(&group.lock);
    return status;
}

int ncclCommGetAsyncError(Communicator* communicator, int* status) { return *status = communicator->error, SUCCESS; }

int ncclCommAbort(Communicator* communicator) {
    munmap(communicator->group, sizeof(Group));
    delete communicator;
    return SUCCESS;
}
}
