/* The least a name server on these system calls can cost: every datagram goes back as it came, but for the bit that makes it an
 * answer. echo PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 32, BYTES = 4096 };

int main(int count, char **words) {
  static char buffers[BATCH][BYTES];
  struct mmsghdr headers[BATCH];
  struct iovec vectors[BATCH];
  struct sockaddr_in peers[BATCH];
  struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int bytes = 1 << 20, descriptor = socket(AF_INET, SOCK_DGRAM, 0);
  here.sin_port = htons(count > 1 ? atoi(words[1]) : 0);
  setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  if (bind(descriptor, (struct sockaddr *)&here, sizeof here)) return 1;
  memset(headers, 0, sizeof headers);
  for (;;) {
    for (int i = 0; i < BATCH; i++) {
      vectors[i] = (struct iovec){buffers[i], BYTES};
      headers[i].msg_hdr = (struct msghdr){.msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    int received = recvmmsg(descriptor, headers, BATCH, MSG_WAITFORONE, NULL);
    for (int i = 0; i < received; i++) {
      buffers[i][2] |= (char)0x80;
      vectors[i].iov_len = headers[i].msg_len;
    }
    for (int sent = 0, now; sent < received; sent += now)
      if ((now = sendmmsg(descriptor, headers + sent, received - sent, 0)) <= 0) break;
  }
}
