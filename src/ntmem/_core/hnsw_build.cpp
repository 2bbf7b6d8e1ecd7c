/* hnswlib's graph over rows that stand elsewhere.
 *
 * Taken from hnswlib 0.8.0: the search at a level while building, the choice of neighbours, the linking, and its own
 * search for comparison. `insert` is its `addPoint` without labels: node i is row i, in whatever order threads come,
 * so nothing is to be renumbered, and there are no map and no locks of labels. Levels are drawn beforehand, in the
 * order in which one thread would draw them: its generator is no business of several. They are drawn for rows that are
 * left out or were linked before, too, so that a row's level does not depend on these. With one thread the graph is that
 * of `addPoint`, link by link.
 *
 * Elements hold links only. A row's number follows from its element's address, so the distance touches nothing of it.
 */
#include "hnsw_build.h"

#include <hnswlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>

#ifdef __linux__
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

using hnswlib::labeltype;
using hnswlib::tableint;

bool is_to_stop(const hnsw_task_t &task) { return task.stop != nullptr && *task.stop; }

bool is_wanted(const hnsw_task_t &task, size_t row) {
    return row >= task.first && (task.wanted == nullptr || (task.wanted[row / 64] >> row % 64 & 1));
}

/* By which a thread works a share of the time only: what it owes it sleeps off, some milliseconds at once. */
class Pace {
 public:
    explicit Pace(const hnsw_task_t &task) : task_(task) {}

    /* After a piece of work. */
    void rest() {
        using std::chrono::milliseconds;
        if (task_.share >= 1)
            return;
        auto now = Clock::now();
        owed_ += (now - since_) * (1 / task_.share - 1);
        while (owed_ >= milliseconds(2) && !is_to_stop(task_)) {
            std::this_thread::sleep_for(std::min<Owed>(owed_, milliseconds(5)));
            const auto woke = Clock::now();
            owed_ = std::max<Owed>(owed_ - (woke - now), milliseconds(-5)); /* a long night is no credit */
            now = woke;
        }
        since_ = now;
    }

 private:
    using Clock = std::chrono::steady_clock;
    using Owed = std::chrono::duration<double>;

    const hnsw_task_t &task_;
    Clock::time_point since_ = Clock::now();
    Owed owed_{0};
};

class Space : public hnswlib::SpaceInterface<float> {
 public:
    explicit Space(const hnsw_task_t &task) : distance_(task.distance), places_(task.places) {}
    size_t get_data_size() override { return 0; }
    hnswlib::DISTFUNC<float> get_dist_func() override { return distance_; }
    void *get_dist_func_param() override { return places_; }

 private:
    hnsw_distance_t *distance_;
    hnsw_places_t *places_;
};

class Filter : public hnswlib::BaseFilterFunctor {
 public:
    explicit Filter(const uint64_t *allowed) : allowed_(allowed) {}
    bool operator()(labeltype row) override { return allowed_[row / 64] >> row % 64 & 1; }

 private:
    const uint64_t *allowed_;
};

class Graph : public hnswlib::HierarchicalNSW<float> {
 public:
    Graph(Space *space, const hnsw_task_t &task)
        : hnswlib::HierarchicalNSW<float>(space, task.count, task.m, task.ef_construction, task.seed) {
        task.places->elements = getDataByInternalId(0);
        task.places->element_size = size_data_per_element_;
        if (!task.plain)
            std::vector<std::mutex>().swap(label_op_locks_);
    }

    /* What `addPoint` does for one element after the other: empty lists, labels. */
    void prepare() {
        memset(data_level0_memory_, 0, max_elements_ * size_data_per_element_);
        for (tableint row = 0; row < max_elements_; row++)
            setExternalLabel(row, row);
        cur_element_count = max_elements_;
    }

    void draw_levels(const hnsw_task_t &task) {
        for (tableint row = 0; row < max_elements_; row++) {
            const int level = std::min(getRandomLevel(mult_), (int)task.most_levels - 1);
            if (is_wanted(task, row))
                set_level(row, level);
        }
    }

    void set_level(tableint row, int level) {
        if (level == 0 || element_levels_[row] > 0)
            return;
        linkLists_[row] = (char *)calloc(level, size_links_per_element_);
        if (linkLists_[row] == nullptr)
            throw std::bad_alloc();
        element_levels_[row] = level;
    }

    void set_list(tableint row, int level, const tableint *links, uint32_t count) {
        auto *list = get_linklist_at_level(row, level);
        setListCount(list, (unsigned short)count);
        std::copy(links, links + count, list + 1);
    }

    void set_entry(tableint row) {
        enterpoint_node_ = row;
        maxlevel_ = element_levels_[row];
    }

    void insert(tableint row) {
        const int level = element_levels_[row];
        std::unique_lock<std::mutex> top(global);
        const int highest = maxlevel_;
        tableint at = enterpoint_node_;
        if (level <= highest)
            top.unlock();
        std::unique_lock<std::mutex> own(link_list_locks_[row]);
        if (highest >= 0) {
            at = descend(row, at, highest, level);
            for (int each = std::min(level, highest); each >= 0; each--) {
                auto found = searchBaseLayer(at, getDataByInternalId(row), each);
                at = mutuallyConnectNewElement(getDataByInternalId(row), row, found, each, false);
            }
        }
        if (level > highest) {
            enterpoint_node_ = row;
            maxlevel_ = level;
        }
    }

    uint32_t level(tableint row) const { return (uint32_t)element_levels_[row]; }

    bool is_linked(tableint row) const { return getListCount(get_linklist0(row)) > 0 || row == enterpoint_node_; }

    const uint32_t *list(tableint row, int level, uint32_t *count) const {
        const auto *links = get_linklist_at_level(row, level);
        *count = getListCount(const_cast<hnswlib::linklistsizeint *>(links));
        return links + 1;
    }

    /* Choosing neighbours can leave a node that nobody links to, and many equal rows an island. Each gets a link from a
     * near node that is led to. Returns how many. */
    size_t mend(const hnsw_task_t &task) {
        std::vector<char> reached(cur_element_count, 0);
        std::vector<tableint> queue;
        size_t mended = 0;
        Pace pace(task);
        if (maxlevel_ < 0)
            return 0;
        reach(enterpoint_node_, reached, queue);
        pace.rest();
        for (tableint row = 0; row < cur_element_count && !is_to_stop(task); row++)
            if (!reached[row] && is_linked(row)) {
                link_from_near(row);
                reach(row, reached, queue);
                mended++;
                pace.rest();
            }
        return mended;
    }

    /* What is not needed any more. */
    void drop_locks() { std::vector<std::mutex>().swap(link_list_locks_); }

 private:
    tableint descend(tableint row, tableint at, int from, int to) {
        float nearest = distance(row, at);
        for (int level = from; level > to;) {
            const tableint before = at;
            std::unique_lock<std::mutex> lock(link_list_locks_[before]);
            uint32_t count;
            const uint32_t *links = list(before, level, &count);
            for (uint32_t i = 0; i < count; i++) {
                const float apart = distance(row, links[i]);
                if (apart < nearest) {
                    nearest = apart;
                    at = links[i];
                }
            }
            level -= at == before;
        }
        return at;
    }

    float distance(tableint a, tableint b) const {
        return fstdistfunc_(getDataByInternalId(a), getDataByInternalId(b), dist_func_param_);
    }

    void reach(tableint from, std::vector<char> &reached, std::vector<tableint> &queue) const {
        reached[from] = 1;
        queue.assign(1, from);
        while (!queue.empty()) {
            uint32_t count;
            const uint32_t *links = list(queue.back(), 0, &count);
            queue.pop_back();
            for (uint32_t i = 0; i < count; i++)
                if (!reached[links[i]]) {
                    reached[links[i]] = 1;
                    queue.push_back(links[i]);
                }
        }
    }

    /* From the nearest one that has room. If none has, in between the nearest one and one of its neighbours: what
     * that led to, this row leads to then, and nothing that was led to needed the link of this row that may be lost
     * for it. */
    void link_from_near(tableint row) {
        auto found = searchBaseLayer(enterpoint_node_, getDataByInternalId(row), 0);
        tableint near = found.top().second, nearest = near;
        bool has_room = false;
        for (; !found.empty(); found.pop()) {
            nearest = found.top().second;
            if (room(nearest)) {
                near = nearest;
                has_room = true;
            }
        }
        if (has_room)
            return append(near, row);
        tableint *last = get_linklist0(nearest) + maxM0_;
        const tableint next = *last;
        *last = row;
        if (!room(row))
            setListCount(get_linklist0(row), maxM0_ - 1);
        append(row, next);
    }

    bool room(tableint row) const { return getListCount(get_linklist0(row)) < maxM0_; }

    void append(tableint row, tableint neighbour) {
        auto *links = get_linklist0(row);
        const unsigned short count = getListCount(links);
        links[1 + count] = neighbour;
        setListCount(links, count + 1);
    }
};

}  // namespace

struct hnsw_built {
    Space space;
    Graph graph;
    size_t mended = 0;
    explicit hnsw_built(const hnsw_task_t &task) : space(task), graph(&space, task) {}
};

namespace {

/* Threads take the next row until there is none, or one of them failed. The first rows are one thread's: what comes at the
 * same time does not see each other, and among few nodes one that nobody saw is found by nobody later. */
class Work {
    static constexpr size_t ALONE = 1000;

 public:
    Work(Graph &graph, const hnsw_task_t &task) : graph_(graph), task_(task), next_(task.first) {}

    void run() {
        const size_t begin = next_, alone = std::min<size_t>(task_.count, ALONE);
        insert_rows(alone); /* which has asked for one more */
        next_ = std::max(begin, alone);
        std::vector<std::thread> others;
        try {
            for (int i = 1; i < task_.threads; i++)
                others.emplace_back([this] { insert_rows(task_.count); });
        } catch (const std::system_error &) { /* fewer, then */
        }
        insert_rows(task_.count);
        for (auto &each : others)
            each.join();
        if (failure_)
            std::rethrow_exception(failure_);
    }

    bool was_stopped() const { return stopped_; }

 private:
    void insert_rows(size_t end) {
        Pace pace(task_);
        try {
            for (size_t row; !stopped_ && (row = next_++) < end; pace.rest()) {
                if (is_to_stop(task_))
                    stopped_ = true;
                else if (task_.plain)
                    graph_.addPoint(graph_.getDataByInternalId((tableint)row), row);
                else if (is_wanted(task_, row))
                    graph_.insert((tableint)row);
            }
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            failure_ = std::current_exception();
            stopped_ = true;
        }
    }

    Graph &graph_;
    const hnsw_task_t &task_;
    std::atomic<size_t> next_;
    std::atomic<bool> stopped_{false};
    std::mutex mutex_;
    std::exception_ptr failure_;
};

/* No exception leaves a function of C. */
template <typename Function>
int outcome_of(char *message, Function function) {
    try {
        return function();
    } catch (const std::bad_alloc &) {
        return HNSW_NO_MEMORY;
    } catch (const std::exception &error) {
        if (message != nullptr)
            snprintf(message, 200, "%s", error.what());
        return HNSW_FAILED;
    }
}

void take_lowest_priority() {
#ifdef __linux__
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19); /* of this thread alone */
#endif
}

}  // namespace

extern "C" {

int hnsw_each_row(const hnsw_task_t *task, void (*work)(void *context, size_t row), void *context) {
    Pace pace(*task);
    for (size_t row = 0; row < task->count; row++) {
        if (is_to_stop(*task))
            return HNSW_STOPPED;
        work(context, row);
        pace.rest();
    }
    return HNSW_DONE;
}

int hnsw_new(const hnsw_task_t *task, hnsw_built_t **to, char *message) {
    return outcome_of(message, [&] {
        std::unique_ptr<hnsw_built> built(new hnsw_built(*task));
        if (!task->plain)
            built->graph.prepare();
        *to = built.release();
        return HNSW_DONE;
    });
}

int hnsw_set_level(hnsw_built_t *built, uint32_t node, uint32_t level) {
    return outcome_of(nullptr, [&] {
        built->graph.set_level(node, (int)level);
        return HNSW_DONE;
    });
}

void hnsw_set_list(hnsw_built_t *built, uint32_t node, uint32_t level, const uint32_t *links, uint32_t count) {
    built->graph.set_list(node, (int)level, links, count);
}

void hnsw_set_entry(hnsw_built_t *built, uint32_t node) { built->graph.set_entry(node); }

int hnsw_link(const hnsw_task_t *task, hnsw_built_t *built, char *message) {
    return outcome_of(message, [&] {
        Work work(built->graph, *task);
        if (!task->plain)
            built->graph.draw_levels(*task);
        work.run();
        if (work.was_stopped())
            return HNSW_STOPPED;
        if (!task->plain)
            built->mended = built->graph.mend(*task);
        built->graph.drop_locks();
        return is_to_stop(*task) ? HNSW_STOPPED : HNSW_DONE;
    });
}

void hnsw_free(hnsw_built_t *built) { delete built; }

void hnsw_in_background(void (*work)(void *), void *context) {
    try {
        std::thread([=] {
            take_lowest_priority();
            work(context);
        }).join();
    } catch (const std::system_error &) { /* no thread: better now than never */
        work(context);
    }
}

size_t hnsw_bytes_linked(size_t count, size_t m) {
    const size_t element = (2 * m + 1) * sizeof(tableint) + sizeof(labeltype) + sizeof(int) + sizeof(char *);
    const size_t above = (m + 1) * sizeof(tableint) + 16; /* with what malloc needs */
    return count * (element + 2 * sizeof(hnswlib::vl_type)) + count / (m - 1) * above;
}

/* Locks, and what leads to the rows that nothing leads to. */
size_t hnsw_bytes_linking(size_t count, size_t m) {
    return hnsw_bytes_linked(count, m) + count * (sizeof(std::mutex) + sizeof(char) + sizeof(tableint));
}

uint32_t hnsw_entry(const hnsw_built_t *built) { return built->graph.enterpoint_node_; }

uint32_t hnsw_level(const hnsw_built_t *built, uint32_t node) { return built->graph.level(node); }

int hnsw_is_linked(const hnsw_built_t *built, uint32_t node) { return built->graph.is_linked(node); }

const uint32_t *hnsw_list(const hnsw_built_t *built, uint32_t node, uint32_t level, uint32_t *count) {
    return built->graph.list(node, (int)level, count);
}

size_t hnsw_mended(const hnsw_built_t *built) { return built->mended; }

size_t hnsw_search(hnsw_built_t *built, hnsw_distance_t *distance, const void *query, size_t k, size_t ef,
                   const uint64_t *allowed, uint32_t *nodes, float *distances) {
    Filter filter(allowed);
    built->graph.setEf(ef);
    std::swap(built->graph.fstdistfunc_, distance);
    auto found = built->graph.searchKnn(query, k, allowed == nullptr ? nullptr : &filter);
    std::swap(built->graph.fstdistfunc_, distance);
    const size_t count = found.size();
    for (size_t i = count; i-- > 0; found.pop()) {
        nodes[i] = (uint32_t)found.top().second;
        distances[i] = found.top().first;
    }
    return count;
}

}  // extern "C"
