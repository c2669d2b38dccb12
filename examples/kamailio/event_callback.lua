-- event callback function implemented in Lua
function ksr_sipdump_event(evname)
        KSR.info("===== sipdump module triggered event: " .. evname .. "\n");
        return 1;
end
