/* A star of access links in one process: one TUN a peer, this program in the middle.
 *
 *   router COUNT            peer i is the one whose address ends in .0.(i+1)
 *
 * It makes TUNs nl0..nlN-1 in its own network namespace, prints "ready", and from then on obeys lines on stdin:
 *
 *   set INDEX UP_MBIT DOWN_MBIT ONE_WAY_MS LOSS_PERCENT QUEUE_MS FLAGS
 *
 * A rate of 0 is no limit. FLAGS: 1 = link down, 2 = no inbound connections (as behind a NAT). EOF ends it.
 *
 * A packet waits for its turn on the sender's uplink (tail drop when QUEUE_MS worth of bytes wait), may be lost,
 * travels for the sender's and the receiver's one-way delay, and waits for its turn on the receiver's downlink.
 * Queues are virtual: each link knows when it will be free, and a heap holds what is on its way.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_PEERS 250
#define MAX_PACKET 2048
#define MAX_WAITING 400000
#define BATCH 64
#define SLACK_NS 20000 /* early enough: a wake-up costs more than that */

typedef struct {
    double rate; /* bytes a nanosecond; 0: no limit */
    uint64_t free_at;
} Pipe;

typedef struct {
    int tun;
    Pipe up, down;
    uint64_t delay, queue; /* ns */
    double loss;
    int flags;
} Peer;

typedef struct {
    uint64_t at;
    uint32_t to;
    uint16_t length, queued; /* queued: the downlink was passed, deliver it */
    unsigned char data[];
} Packet;

static Peer peers[MAX_PEERS];
static Packet *heap[MAX_WAITING];
static size_t waiting;
static int count;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void push(Packet *p) {
    size_t i = waiting++;
    for (; i && heap[(i - 1) / 2]->at > p->at; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = p;
}

static Packet *pop(void) {
    Packet *top = heap[0], *last = heap[--waiting];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= waiting) break;
        if (child + 1 < waiting && heap[child + 1]->at < heap[child]->at) child++;
        if (heap[child]->at >= last->at) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* When the last byte has left the pipe; 0 if the queue is full. */
static uint64_t pass(Pipe *pipe, uint64_t t, uint64_t queue, int bytes) {
    if (pipe->rate <= 0) return t;
    uint64_t start = pipe->free_at > t ? pipe->free_at : t;
    if (start - t > queue) return 0;
    return pipe->free_at = start + (uint64_t)(bytes / pipe->rate);
}

static int is_inbound_connection(const unsigned char *data, int length) {
    int header = (data[0] & 15) * 4;
    if (data[9] != IPPROTO_TCP) return data[9] == IPPROTO_UDP;
    return length >= header + 14 && (data[header + 13] & 0x12) == 0x02; /* SYN without ACK */
}

static void take(int from, unsigned char *data, int length, uint64_t t) {
    Peer *sender = &peers[from];
    if (length < 20 || data[0] >> 4 != 4 || waiting >= MAX_WAITING) return;
    int to = (data[18] << 8 | data[19]) - 1;
    if (to < 0 || to >= count || to == from) return;
    if ((sender->flags | peers[to].flags) & 1) return;
    if (peers[to].flags & 2 && is_inbound_connection(data, length)) return;
    if (drand48() < sender->loss) return;
    uint64_t left = pass(&sender->up, t, sender->queue, length);
    Packet *packet = left ? malloc(sizeof *packet + length) : NULL;
    if (!packet) return;
    *packet = (Packet){.at = left + sender->delay + peers[to].delay, .to = to, .length = length};
    memcpy(packet->data, data, length);
    push(packet);
}

static void move_on(uint64_t t) {
    while (waiting && heap[0]->at <= t + SLACK_NS) {
        Packet *packet = pop();
        Peer *receiver = &peers[packet->to];
        if (!packet->queued) {
            uint64_t through = pass(&receiver->down, packet->at, receiver->queue, packet->length);
            if (!through) {
                free(packet);
                continue;
            }
            packet->queued = 1;
            packet->at = through;
            push(packet);
            continue;
        }
        if (write(receiver->tun, packet->data, packet->length) < 0 && errno == EBADF) exit(3);
        free(packet);
    }
}

static void obey(char *line) {
    int i, flags;
    double up, down, delay, loss, queue;
    if (sscanf(line, "set %d %lf %lf %lf %lf %lf %d", &i, &up, &down, &delay, &loss, &queue, &flags) != 7) return;
    if (i < 0 || i >= count) return;
    Peer *peer = &peers[i];
    peer->up.rate = up / 8e3;
    peer->down.rate = down / 8e3;
    peer->delay = delay * 1e6;
    peer->queue = queue * 1e6;
    peer->loss = loss / 100;
    peer->flags = flags;
}

static void read_orders(void) {
    static char text[65536];
    static size_t held;
    ssize_t n = read(0, text + held, sizeof text - 1 - held);
    if (n <= 0) exit(0);
    text[held += n] = 0;
    char *line = text, *end;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        obey(line);
    }
    memmove(text, line, held -= line - text);
}

static int open_tun(int index) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, IFNAMSIZ, "nl%d", index);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0) {
        perror("router: /dev/net/tun");
        exit(1);
    }
    return tun;
}

int main(int argc, char **argv) {
    static struct pollfd polled[MAX_PEERS + 1];
    count = argc > 1 ? atoi(argv[1]) : 0;
    if (count < 1 || count > MAX_PEERS) return 2;
    for (int i = 0; i < count; i++) polled[i] = (struct pollfd){peers[i].tun = open_tun(i), POLLIN, 0};
    polled[count] = (struct pollfd){0, POLLIN, 0};
    srand48(count);
    setpriority(PRIO_PROCESS, 0, -15); /* a late router is a slow link; if not allowed, so be it */
    puts("ready");
    fflush(stdout);
    for (;;) {
        uint64_t t = now();
        move_on(t);
        uint64_t wait = waiting && heap[0]->at > t ? heap[0]->at - t : waiting ? 0 : 1000000000ull;
        struct timespec timeout = {wait / 1000000000ull, wait % 1000000000ull};
        ppoll(polled, count + 1, &timeout, NULL);
        t = now();
        for (int i = 0; i < count; i++) {
            unsigned char data[MAX_PACKET];
            for (int k = 0; polled[i].revents && k < BATCH; k++) {
                int n = read(peers[i].tun, data, sizeof data);
                if (n <= 0) break;
                take(i, data, n, t);
            }
        }
        if (polled[count].revents) read_orders();
    }
}
