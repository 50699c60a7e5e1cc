// Runs a kernel of kernels/*.cu on the CPU, so that it can be put under the sanitizers:
//
//     on_cpu KERNEL DIRECTORY BLOCKS ITEMS NUMBER...
//
// Buffers are files of DIRECTORY; those that the kernel writes are written back.

#include "cuda_on_cpu.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

// A buffer of exactly the file's size, so that a read or write past it is seen.
template <typename T>
struct Buffer {
    std::string path;
    std::vector<T> values;

    Buffer(const std::string& directory, const char* name) : path(directory + "/" + name) {
        FILE* file = fopen(path.c_str(), "rb");
        if (!file || fseek(file, 0, SEEK_END) != 0) exit(2);
        values = std::vector<T>(ftell(file) / sizeof(T));
        rewind(file);
        if (fread(values.data(), sizeof(T), values.size(), file) != values.size()) exit(2);
        fclose(file);
    }

    void write() const {
        FILE* file = fopen(path.c_str(), "wb");
        if (!file || fwrite(values.data(), sizeof(T), values.size(), file) != values.size() || fclose(file) != 0) exit(2);
    }

    T* operator*() { return values.data(); }
};

template <typename Real, typename Kernel>
static void brute(Kernel kernel, const std::string& directory, u32 grid, u32 n, u32 k) {
    Buffer<Pair<Real>> points(directory, "points"), centroids(directory, "centroids");
    Buffer<u32> tokens(directory, "tokens");
    launch(grid, [&] { kernel(*points, n, *centroids, k, *tokens); });
    tokens.write();
}

int main(int argc, char** argv) {
    if (argc < 5) return 2;
    std::string kernel = argv[1], directory = argv[2];
    auto number = [&](int i) { return i < argc ? strtod(argv[i], nullptr) : 0.0; };
    u32 grid = number(3), n = number(4);
    if (kernel == "encode") {
        Buffer<uint2> packets(directory, "packets"), steps(directory, "steps");
        Buffer<u32> ranges(directory, "ranges"), tokens(directory, "tokens"), report(directory, "report");
        launch(grid, [&] { encode(*packets, n, *ranges, *steps, *tokens, *report); });
        tokens.write();
        report.write();
    } else if (kernel == "accumulate") {
        Buffer<uint2> packets(directory, "packets");
        Buffer<u32> tokens(directory, "tokens");
        Buffer<u64> sums(directory, "sums");
        u32 k = number(5), last_zero = number(8);
        double unit = number(6), offset = number(7);
        launch(grid, [&] { accumulate(*packets, *tokens, n, k, unit, offset, last_zero, *sums); });
        sums.write();
    } else if (kernel == "moments") {
        Buffer<uint2> packets(directory, "packets");
        Buffer<u64> sums(directory, "sums");
        double unit = number(5), offset = number(6);
        u32 last_zero = number(7);
        launch(grid, [&] { moments(*packets, n, unit, offset, last_zero, *sums); });
        sums.write();
    } else if (kernel == "nearest_brute_f64") {
        brute<double>(nearest_brute_f64, directory, grid, n, number(5));
    } else if (kernel == "nearest_brute_f32") {
        brute<float>(nearest_brute_f32, directory, grid, n, number(5));
    } else {
        return 2;
    }
    return 0;
}
