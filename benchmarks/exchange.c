/* Bare requests and responses, as netperf's TCP_RR and TCP_CRR make them: what the agent's own client is held against.
 *
 * exchange serve ADDRESS PORT SIZE         in the background; one connection after the other
 * exchange rr    ADDRESS PORT SIZE SECONDS over one connection
 * exchange crr   ADDRESS PORT SIZE COUNT   connect, one exchange, close; the client closes first
 *
 * Both clients print transactions per second and the median and 99th percentile of their time in microseconds.
 */
#include <err.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 20000000

static char buffer[1 << 20];
static size_t size;

static double now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int ended(ssize_t (*move)(int, void *, size_t), int connection)
{
	for (size_t done = 0; done < size;) {
		ssize_t moved = move(connection, buffer + done, size - done);
		if (moved <= 0)
			return 1;
		done += moved;
	}
	return 0;
}

static ssize_t receive(int connection, void *at, size_t bytes) { return recv(connection, at, bytes, 0); }
static ssize_t give(int connection, void *at, size_t bytes) { return send(connection, at, bytes, MSG_NOSIGNAL); }

static int open_socket(struct addrinfo *where)
{
	int one = 1, made = socket(where->ai_family, SOCK_STREAM, 0);
	if (made < 0)
		err(1, "socket");
	setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	return made;
}

static void serve(struct addrinfo *where)
{
	int listener = open_socket(where);
	if (bind(listener, where->ai_addr, where->ai_addrlen) || listen(listener, 128))
		err(1, "listen");
	if (daemon(0, 0))
		err(1, "daemon");
	for (int connection;; close(connection)) {
		connection = accept(listener, NULL, NULL);
		while (connection >= 0 && !ended(receive, connection) && !ended(give, connection))
			;
	}
}

static void exchange(int connection)
{
	if (ended(give, connection) || ended(receive, connection))
		errx(1, "the connection was closed");
}

static int connected(struct addrinfo *where)
{
	int made = open_socket(where);
	if (connect(made, where->ai_addr, where->ai_addrlen))
		err(1, "connect");
	return made;
}

static int compare(const void *one, const void *other)
{
	float difference = *(const float *)one - *(const float *)other;
	return (difference > 0) - (difference < 0);
}

int main(int count, char **words)
{
	struct addrinfo *where, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	if (count < 5 || getaddrinfo(words[2], words[3], &hints, &where) || (size = atol(words[4])) > sizeof buffer)
		errx(2, "usage: exchange serve|rr|crr ADDRESS PORT SIZE [SECONDS|COUNT]");
	if (!strcmp(words[1], "serve"))
		serve(where);
	int anew = !strcmp(words[1], "crr"), connection = anew ? -1 : connected(where);
	double limit = atof(words[5]), begin = now_us(), end = begin;
	float *times = malloc(MOST * sizeof *times);
	long made = 0;
	for (; made < MOST && (anew ? made < limit : end - begin < limit * 1e6); made++) {
		double sent = now_us();
		if (anew)
			connection = connected(where);
		exchange(connection);
		if (anew)
			close(connection);
		end = now_us();
		times[made] = end - sent;
	}
	qsort(times, made, sizeof *times, compare);
	printf("%f %f %f\n", made / (end - begin) * 1e6, times[made / 2], times[made * 99 / 100]);
	return 0;
}
