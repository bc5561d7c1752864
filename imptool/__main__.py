from imptool.cli import main

main()
