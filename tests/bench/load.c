// SPDX-License-Identifier: Apache-2.0
/*
 * Client and server of the connection benchmark, in C so that the program under test and not the
 * generator is measured. One thread, blocking sockets; prints one line of JSON.
 *
 *   load serve PORT                       TCP accept/echo and UDP discard, both families
 *   load tcp  ADDRESS PORT COUNT          connect + close (RST), one latency each
 *   load udp  ADDRESS PORT COUNT          sendto on one unconnected socket
 *   load rr   ADDRESS PORT COUNT          request/response of one byte on one connection
 *   load stream ADDRESS PORT MEGABYTES    one-way throughput of one connection
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Client and server each stay on a processor of their own: where the scheduler puts them decides
 * more than what is measured. */
static void stay_on(int number)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(number % sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static int open_socket(struct addrinfo *to, int type)
{
	int one = 1, fd = socket(to->ai_family, type, 0);
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	if (fd < 0)
		die("socket");
	if (type == SOCK_STREAM) {
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	return fd;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void report(double *samples, int count, double total_us)
{
	qsort(samples, count, sizeof(*samples), compare);
	printf("{\"count\":%d,\"per_s\":%.1f,\"min_us\":%.3f,\"p50_us\":%.3f,\"p99_us\":%.3f}\n", count,
	       count / total_us * 1e6, samples[0], samples[count / 2], samples[count * 99 / 100]);
}

static void run_tcp(struct addrinfo *to, int count, double *samples)
{
	double begin = now_us(), before;
	int i, fd;

	for (i = 0; i < count; i++) {
		before = now_us();
		fd = open_socket(to, SOCK_STREAM);
		if (connect(fd, to->ai_addr, to->ai_addrlen))
			die("connect");
		close(fd);
		samples[i] = now_us() - before;
	}
	report(samples, count, now_us() - begin);
}

static void run_udp(struct addrinfo *to, int count, double *samples)
{
	int i, fd = open_socket(to, SOCK_DGRAM);
	double begin = now_us(), before;

	for (i = 0; i < count; i++) {
		before = now_us();
		if (sendto(fd, "x", 1, 0, to->ai_addr, to->ai_addrlen) < 0)
			die("sendto");
		samples[i] = now_us() - before;
	}
	report(samples, count, now_us() - begin);
}

static void run_rr(struct addrinfo *to, int count, double *samples)
{
	int i, fd = open_socket(to, SOCK_STREAM);
	double begin, before;
	char byte = 'x';

	if (connect(fd, to->ai_addr, to->ai_addrlen))
		die("connect");
	begin = now_us();
	for (i = 0; i < count; i++) {
		before = now_us();
		if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1)
			die("exchange");
		samples[i] = now_us() - before;
	}
	report(samples, count, now_us() - begin);
}

static void run_stream(struct addrinfo *to, int megabytes)
{
	static char block[1 << 20];
	int i, fd = open_socket(to, SOCK_STREAM);
	size_t sent;
	ssize_t n;
	double begin;

	block[0] = 's'; /* tells the server to discard instead of echo */
	if (connect(fd, to->ai_addr, to->ai_addrlen))
		die("connect");
	begin = now_us();
	for (i = 0; i < megabytes; i++)
		for (sent = 0; sent < sizeof(block); sent += n)
			if ((n = send(fd, block + sent, sizeof(block) - sent, 0)) < 0)
				die("send");
	printf("{\"mb_per_s\":%.1f}\n", megabytes / (now_us() - begin) * 1e6);
}

static void *serve_connection(void *arg)
{
	static __thread char buffer[1 << 18];
	int fd = (int)(long)arg, discard = -1;
	ssize_t n;

	while ((n = recv(fd, buffer, sizeof(buffer), 0)) > 0) {
		if (discard < 0)
			discard = buffer[0] == 's';
		if (!discard && send(fd, buffer, n, MSG_NOSIGNAL) < 0)
			break;
	}
	close(fd);
	return NULL;
}

static int listener(int type, int port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, zero = 0, fd = socket(AF_INET6, type, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (void *)&any, sizeof(any)) || (type == SOCK_STREAM && listen(fd, 4096)))
		die("listen");
	return fd;
}

static void serve(int port)
{
	struct pollfd fds[2] = {
		{ .fd = listener(SOCK_STREAM, port), .events = POLLIN },
		{ .fd = listener(SOCK_DGRAM, port), .events = POLLIN },
	};
	struct pollfd peek = { .events = POLLIN };
	char buffer[2048];
	pthread_t thread;
	int fd, one = 1;

	puts("ready");
	fflush(stdout);
	for (;;) {
		poll(fds, 2, -1);
		if (fds[1].revents)
			while (recv(fds[1].fd, buffer, sizeof(buffer), MSG_DONTWAIT) >= 0)
				;
		if (!fds[0].revents || (fd = accept(fds[0].fd, NULL, NULL)) < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* A connection that says nothing at once is a connect benchmark: no thread for it. */
		peek.fd = fd;
		if (poll(&peek, 1, 1000) == 1 && recv(fd, buffer, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
			pthread_create(&thread, NULL, serve_connection, (void *)(long)fd);
			pthread_detach(thread);
		} else {
			close(fd);
		}
	}
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV }, *to;
	double *samples;
	int count;

	stay_on(argc == 3 ? 0 : 1);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve(atoi(argv[2]));
	if (argc != 5 || getaddrinfo(argv[2], argv[3], &hints, &to) || (count = atoi(argv[4])) < 1) {
		fprintf(stderr, "usage: load serve PORT | load tcp|udp|rr|stream ADDRESS PORT COUNT\n");
		return 2;
	}
	samples = calloc(count, sizeof(*samples));
	if (!strcmp(argv[1], "tcp"))
		run_tcp(to, count, samples);
	else if (!strcmp(argv[1], "udp"))
		run_udp(to, count, samples);
	else if (!strcmp(argv[1], "rr"))
		run_rr(to, count, samples);
	else if (!strcmp(argv[1], "stream"))
		run_stream(to, count);
	return 0;
}
