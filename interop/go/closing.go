package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"
)

const (
	// connections is how many are made one after the other.
	connections = 10

	// upload is how long an upload runs before the end of its connection cuts it off.
	upload = 500 * time.Millisecond
)

// endings is notified of the connections that the other side has closed.
type endings struct {
	sync.Mutex
	// closed are those that were closed here.
	closed map[network.Conn]bool
	// heard gets how each other connection ended.
	heard func(result)
}

// watchEnds tells heard of every connection that ends, but for those that closeConn has closed.
func watchEnds(h host.Host, heard func(result)) *endings {
	ends := &endings{closed: make(map[network.Conn]bool), heard: heard}
	h.Network().Notify(&network.NotifyBundle{
		DisconnectedF: func(_ network.Network, conn network.Conn) {
			at := nowMS()
			ends.Lock()
			own := ends.closed[conn]
			delete(ends.closed, conn)
			ends.Unlock()
			if own {
				return
			}
			name := conn.RemotePeer().String()
			ended := result{"disconnected": name, "code": nil, "error": nil, "at_ms": at}
			var quicConn *quic.Conn
			if conn.As(&quicConn) {
				cause := context.Cause(quicConn.Context())
				ended["error"] = fmt.Sprint(cause)
				var closed *quic.ApplicationError
				if errors.As(cause, &closed) && closed.Remote {
					ended["code"] = closed.ErrorCode
				}
			}
			heard(ended)
		},
	})
	return ends
}

// closeConn closes a connection; begun gets what the peer should hear, and since when.
func (e *endings) closeConn(conn network.Conn, code uint64, begun func(result)) error {
	e.Lock()
	e.closed[conn] = true
	e.Unlock()
	begun(result{"closing": conn.RemotePeer().String(), "code": code, "at_ms": nowMS()})
	if code == 0 {
		return conn.Close()
	}
	return conn.CloseWithError(network.ConnErrorCode(code))
}

// serveClose sends as much as it is asked to, and closes the connection.
func serveClose(ends *endings) func(network.Stream) error {
	return func(s network.Stream) error {
		code, err := readNumber(s)
		if err != nil {
			return err
		}
		size, err := readNumber(s)
		if err != nil {
			return err
		}
		if size > 0 {
			if err := writeZeros(s, int64(size)); err != nil {
				return err
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
		}
		return ends.closeConn(s.Conn(), code, printLine)
	}
}

// serveSink prints what has come when nothing more does.
func serveSink(s network.Stream) error {
	received, err := io.Copy(io.Discard, s)
	line := result{"sunk": s.Conn().RemotePeer().String(), "bytes": received, "error": nil}
	if err != nil {
		line["error"] = err.Error()
	}
	printLine(line)
	return nil
}

// closer is a dialer that makes one connection after the other.
type closer struct {
	*remote
	info          peer.AddrInfo
	ends          *endings
	ended         chan result
	closed, heard []result
}

func newCloser(r *remote) *closer {
	c := &closer{remote: r, ended: make(chan result, connections)}
	c.info = r.host.Peerstore().PeerInfo(r.id)
	c.ends = watchEnds(r.host, func(ended result) { c.ended <- ended })
	return c
}

func (r *remote) closeHears(code uint64) (result, error) {
	c := newCloser(r)
	for _, code := range []uint64{0, code} {
		if err := c.exchange(); err != nil {
			return nil, err
		}
		if err := c.close(code); err != nil {
			return nil, err
		}
		if err := c.redial(); err != nil {
			return nil, err
		}
		if err := c.exchange(); err != nil {
			return nil, err
		}
		if err := c.letPeerClose(code); err != nil {
			return nil, err
		}
		if err := c.redial(); err != nil {
			return nil, err
		}
	}
	return c.seen(), nil
}

func (r *remote) closeMidUpload() (result, error) {
	c := newCloser(r)
	s, err := c.open(perfProtocol)
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(make([]byte, 8+blockBytes)); err != nil {
		return nil, err
	}
	printLine(result{"transferring": true})
	written := make(chan error, 1)
	go func() { written <- writeZeros(s, 1<<62) }()
	select {
	case err := <-written:
		return nil, fmt.Errorf("the upload has ended: %w", err)
	case <-time.After(upload):
	}
	if err := c.close(0); err != nil {
		return nil, err
	}
	return c.seen(), nil
}

func (r *remote) closeRedial() (result, error) {
	c := newCloser(r)
	for turn := range connections {
		if turn > 0 {
			if err := c.redial(); err != nil {
				return nil, fmt.Errorf("after close %d: %w", turn, err)
			}
		}
		if _, err := c.ping(1); err != nil {
			return nil, err
		}
		end := c.close
		if turn%2 == 1 {
			end = c.letPeerClose
		}
		if err := end(0); err != nil {
			return nil, err
		}
	}
	return c.seen(), nil
}

func (r *remote) closeFetches(size int64) (result, error) {
	c := newCloser(r)
	s, err := c.askToClose(0, size)
	if err != nil {
		return nil, err
	}
	received, err := io.Copy(io.Discard, s)
	if err != nil {
		return nil, fmt.Errorf("%d bytes of %d, and then: %w", received, size, err)
	}
	if received != size {
		return nil, fmt.Errorf("the end after %d bytes of %d", received, size)
	}
	return result{"bytes": received}, nil
}

func (c *closer) seen() result {
	return result{"closed": c.closed, "heard": c.heard, "peer_id": c.host.ID().String()}
}

func (c *closer) close(code uint64) error {
	conns := c.host.Network().ConnsToPeer(c.id)
	if len(conns) != 1 {
		return fmt.Errorf("%d connections to close", len(conns))
	}
	return c.ends.closeConn(conns[0], code, func(begun result) { c.closed = append(c.closed, begun) })
}

func (c *closer) letPeerClose(code uint64) error {
	if _, err := c.askToClose(code, 0); err != nil {
		return err
	}
	select {
	case ended := <-c.ended:
		c.heard = append(c.heard, ended)
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// askToClose makes the peer send size bytes, and then close the connection with this code, or with
// 0.
func (c *closer) askToClose(code uint64, size int64) (network.Stream, error) {
	s, err := c.open(closeProtocol)
	if err != nil {
		return nil, err
	}
	header := binary.BigEndian.AppendUint64(nil, code)
	_, err = s.Write(binary.BigEndian.AppendUint64(header, uint64(size)))
	return s, err
}

// exchange sends something and has it echoed, and leaves the stream open.
func (c *closer) exchange() error {
	s, err := c.open(echoProtocol)
	if err != nil {
		return err
	}
	block := make([]byte, streamBytes)
	if _, err := s.Write(block); err != nil {
		return err
	}
	_, err = io.ReadFull(s, block)
	return err
}

func (c *closer) redial() error {
	return c.host.Connect(c.ctx, c.info)
}

// nowMS is the number of milliseconds since 1970, which all peers on this machine count alike.
func nowMS() int64 {
	return time.Now().UnixMilli()
}
