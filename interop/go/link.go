package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/config"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	ma "github.com/multiformats/go-multiaddr"
)

// link is the stack "go" of benches/versus, a download over a link: the QUIC transport alone,
// without a host, as the other stacks there.
func link(role, addr string, opts options) error {
	target, err := ma.NewMultiaddr(addr)
	if err != nil {
		return err
	}
	switch role {
	case "listen":
		return linkListen(target)
	case "dial":
		return linkDial(target, opts)
	}
	return errors.New(usage)
}

// newTransport makes a transport with its own identity, and with all else as a host has it by
// default.
func newTransport() (transport.Transport, peer.ID, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	reset, err := config.PrivKeyToStatelessResetKey(key)
	if err != nil {
		return nil, "", err
	}
	tokens, err := config.PrivKeyToTokenGeneratorKey(key)
	if err != nil {
		return nil, "", err
	}
	sockets, err := quicreuse.NewConnManager(reset, tokens)
	if err != nil {
		return nil, "", err
	}
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()))
	if err != nil {
		return nil, "", err
	}
	quic, err := libp2pquic.NewTransport(key, sockets, nil, nil, resources)
	return quic, id, err
}

func linkListen(addr ma.Multiaddr) error {
	quic, id, err := newTransport()
	if err != nil {
		return err
	}
	listener, err := quic.Listen(addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveLink(conn)
		}
	}()
	printLine(result{"listen": fmt.Sprintf("%s/p2p/%s", listener.Multiaddr(), id)})
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func serveLink(conn transport.CapableConn) {
	for {
		s, err := conn.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			// The dialer has ended the transfer, or notices the error.
			if err := serveSource(s); err != nil {
				s.Reset()
			}
		}()
	}
}

// source asks for an amount, as Request::Source of benches/versus: bytes, the size of each write,
// and the longest time in milliseconds.
type source struct {
	Letter               byte
	Bytes, Write, Millis uint64
}

const sourceLetter = 'r'

func serveSource(s network.MuxedStream) error {
	var asked source
	if err := binary.Read(s, binary.BigEndian, &asked); err != nil {
		return err
	}
	if asked.Letter != sourceLetter || asked.Write == 0 || asked.Write > blockBytes {
		return fmt.Errorf("%w: %v", errUnsupported, asked)
	}
	block := make([]byte, asked.Write)
	end := time.Now().Add(time.Duration(asked.Millis) * time.Millisecond)
	for sent := uint64(0); sent < asked.Bytes && time.Now().Before(end); sent += asked.Write {
		if _, err := s.Write(block); err != nil {
			return err
		}
	}
	return s.Close()
}

// linkDial is ready when it has done what a process does only once, and begins when it reads a
// line.
func linkDial(addr ma.Multiaddr, opts options) error {
	info, err := peer.AddrInfoFromP2pAddr(addr)
	if err != nil {
		return err
	}
	if len(info.Addrs) == 0 {
		return errors.New("no address")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(opts.timeout)*time.Second)
	defer cancel()
	connect := func() (transport.CapableConn, error) {
		quic, _, err := newTransport()
		if err != nil {
			return nil, err
		}
		return quic.Dial(ctx, info.Addrs[0], info.ID)
	}
	first, err := connect()
	if err != nil {
		return err
	}
	if err := first.Close(); err != nil {
		return err
	}
	input := bufio.NewReader(os.Stdin)
	printLine(result{"ready": true})
	if _, err := input.ReadString('\n'); err != nil {
		return err
	}

	start := time.Now()
	conn, err := connect()
	if err != nil {
		return err
	}
	connected := time.Since(start)
	s, err := conn.OpenStream(ctx)
	if err != nil {
		return err
	}
	downloading := time.Duration(opts.millis) * time.Millisecond
	asked := source{sourceLetter, math.MaxUint64, uint64(opts.size), 2 * uint64(opts.millis)}
	if err := binary.Write(s, binary.BigEndian, asked); err != nil {
		return err
	}
	if err := s.SetReadDeadline(time.Now().Add(downloading)); err != nil {
		return err
	}
	received, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{s}, make([]byte, blockBytes))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the download has ended early: %w", err)
	}
	printLine(result{
		"ok":      true,
		"bytes":   received,
		"seconds": time.Since(start).Seconds(),
		"dial_ms": connected.Seconds() * 1e3,
	})
	// The program that has started this looks at what it has used.
	_, err = io.Copy(io.Discard, input)
	return err
}
